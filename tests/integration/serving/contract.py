"""What every engine has to do for the product, embedded or real. Subclasses give `engine`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from msgspec import Struct

from tests.integration.serving.client import Client, ask
from tests.integration.serving.reference import QUESTIONS, Reference
from tests.support.tiny_llama import MAX_LEN, TinyLlama


class Engine(Struct, frozen=True, kw_only=True):
    """Where an engine is, and how exact it is."""

    url: str
    base: str
    tolerance: float
    """Largest difference of a log-probability to plain transformers."""
    exact: bool
    """Whether the same request, alone, has the same bits before an adapter came and after it went."""
    reads_shapes: bool
    """Whether an adapter for a narrower base, and one that is a pickle, are refused when loaded."""
    echoes_together: bool
    """Whether several prompts' log-probabilities may be asked for at once."""
    base_beside_adapters: bool
    """Whether the base's rows stay the base's in a batch with those of adapters."""


class EngineContract:
    """Chat, completions, streams, log-probabilities, errors."""

    @pytest.fixture
    async def client(self, engine: Engine) -> AsyncIterator[Client]:
        async with Client(engine.url) as client:
            yield client

    @pytest.fixture
    async def alpha(self, client: Client, tiny_llama: TinyLlama) -> AsyncIterator[str]:
        await client.load("alpha", tiny_llama.alpha)
        yield "alpha"
        await client.unload("alpha")

    async def test_models_name_their_parents(self, client: Client, engine: Engine, alpha: str) -> None:
        assert await client.models() == {engine.base: None, alpha: engine.base}

    async def test_health_and_metrics(self, client: Client) -> None:
        async with client.session.get("/health") as answer:
            assert answer.status == 200
        async with client.session.get("/metrics") as answer:
            assert answer.status == 200
            assert "# TYPE" in await answer.text()

    @pytest.mark.parametrize("question", QUESTIONS)
    async def test_greedy_answers_are_those_of_plain_transformers(
        self, client: Client, engine: Engine, alpha: str, reference: Reference, question: str
    ) -> None:
        for name, expected in ((engine.base, "base"), (alpha, "alpha")):
            answer = await client.chat(name, question)
            assert answer["object"] == "chat.completion"
            assert answer["model"] == name
            (choice,) = answer["choices"]
            tokens = reference.tokens(expected, question)
            assert choice["message"]["role"] == "assistant"
            assert choice["message"]["content"] == reference.text(expected, question)
            assert choice["finish_reason"] == ("length" if len(tokens) == 24 and tokens[-1] != 1 else "stop")
            usage = answer["usage"]
            assert usage["completion_tokens"] == len(tokens)
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    async def test_a_batch_of_conversations(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        body = ask(engine.base, "") | {
            "messages": [[{"role": "user", "content": question}] for question in QUESTIONS]
        }
        status, answer = await client.post("/v1/chat/completions/batch", body)
        assert status == 200, answer
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(QUESTIONS)))
        found = [choice["message"]["content"] for choice in answer["choices"]]
        assert found == [reference.text("base", question) for question in QUESTIONS]

    async def test_a_stream_gives_the_same_text(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        body = ask(engine.base, "abc", stream_options={"include_usage": True})
        *chunks, last = await client.stream("/v1/chat/completions", body)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 24
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        choices = [chunk["choices"][0] for chunk in chunks]
        assert choices[0]["delta"]["role"] == "assistant"
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        assert text == reference.text("base", "abc")
        # An engine may send several tokens in one piece, but not all of them.
        assert sum(bool(choice["delta"].get("content")) for choice in choices) > 2
        ends = [choice["finish_reason"] for choice in choices]
        assert ends[-1] == "length"
        assert set(ends[:-1]) == {None}

    async def test_the_stock_client(
        self, engine: Engine, client: Client, alpha: str, reference: Reference
    ) -> None:
        async with openai.AsyncOpenAI(base_url=engine.url + "/v1", api_key="none", max_retries=0) as stock:
            listed = [model.id async for model in stock.models.list()]
            assert listed == [engine.base, alpha]
            arguments: Any = {"messages": [{"role": "user", "content": "abc"}], "temperature": 0}
            answer = await stock.chat.completions.create(model=alpha, max_tokens=24, **arguments)
            assert answer.choices[0].message.content == reference.text("alpha", "abc")
            stream = await stock.chat.completions.create(
                model=engine.base, max_tokens=24, stream=True, **arguments
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == reference.text("base", "abc")
            with pytest.raises(openai.NotFoundError) as missing:
                await stock.chat.completions.create(model="nobody", **arguments)
            assert missing.value.param == "model"
            with pytest.raises(openai.BadRequestError):
                await stock.chat.completions.create(model=alpha, max_tokens=MAX_LEN + 1, **arguments)

    async def test_choices_and_seeds(self, client: Client, engine: Engine) -> None:
        async def three(seed: int) -> list[str]:
            answer = await client.chat(engine.base, "abc", n=3, seed=seed, temperature=1.0)
            assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
            return [choice["message"]["content"] for choice in answer["choices"]]

        first, again, other = await three(7), await three(7), await three(100)
        assert first == again
        assert len({*first}) == 3
        assert not {*first} & {*other}

    async def test_temperature_and_top_p(self, client: Client, engine: Engine, reference: Reference) -> None:
        greedy = reference.text("base", "abc")
        assert await client.text(engine.base, "abc", temperature=1.0, top_p=0.01) == greedy
        hot = {await client.text(engine.base, "abc", temperature=1.0, seed=seed) for seed in range(4)}
        assert len(hot) == 4
        assert greedy not in hot

    async def test_stop_strings_end_the_answer_before_them(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        whole = reference.text("base", "abc")
        stop = whole[10:13]
        body = ask(engine.base, "abc", stop=[stop, "not in it"])
        (choice,) = (await client.chat(**_arguments(body)))["choices"]
        assert choice["message"]["content"] == whole[: whole.index(stop)]
        assert choice["finish_reason"] == "stop"
        chunks = [chunk["choices"][0] for chunk in await client.stream("/v1/chat/completions", body)]
        text = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
        assert text == whole[: whole.index(stop)]
        assert chunks[-1]["finish_reason"] == "stop"

    async def test_log_probabilities_of_a_chat(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        answer = await client.chat(engine.base, "abc", max_tokens=8, logprobs=True, top_logprobs=3)
        entries = answer["choices"][0]["logprobs"]["content"]
        tokens = reference.tokens("base", "abc", 8)
        prompt = reference.encode("<|user|>abc<|end|><|assistant|>")
        expected = reference.logprobs("base", [*prompt, *tokens])[len(prompt) - 1 :]
        assert "".join(entry["token"] for entry in entries) == reference.text("base", "abc", 8)
        for entry, value in zip(entries, expected, strict=True):
            assert entry["logprob"] == pytest.approx(value, abs=engine.tolerance)
            assert bytes(entry["bytes"]).decode() == entry["token"]
            tops = entry["top_logprobs"]
            assert len(tops) == 3
            assert tops[0]["token"] == entry["token"]
            assert sorted((top["logprob"] for top in tops), reverse=True) == [top["logprob"] for top in tops]

    async def test_log_probabilities_of_prompts(
        self, client: Client, engine: Engine, alpha: str, reference: Reference
    ) -> None:
        prompts = ["What is it?", "abc def"]
        for name, adapter in ((engine.base, "base"), (alpha, "alpha")):
            choices = []
            for asked in [prompts] if engine.echoes_together else [[prompt] for prompt in prompts]:
                answer = await client.complete(name, asked, max_tokens=0, echo=True, logprobs=1)
                choices += answer["choices"]
            for choice, prompt in zip(choices, prompts, strict=True):
                first, *rest = choice["logprobs"]["token_logprobs"]
                assert choice["text"] == prompt
                assert first is None
                expected = reference.logprobs(adapter, reference.encode(prompt))
                assert rest == pytest.approx(expected, abs=engine.tolerance)
                assert choice["logprobs"]["tokens"] == list(prompt)
                assert choice["logprobs"]["text_offset"] == list(range(len(prompt)))

    async def test_completions_of_texts_and_of_token_ids(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        ids = reference.encode("abc")
        both = [
            await client.complete(engine.base, prompt, max_tokens=9)
            for prompt in ("abc", ["abc"], ids, [ids, ids])
        ]
        assert both[0]["object"] == "text_completion"
        texts = {choice["text"] for answer in both for choice in answer["choices"]}
        assert len(texts) == 1
        assert [len(answer["choices"]) for answer in both] == [1, 1, 1, 2]
        body = {"model": engine.base, "prompt": "abc", "max_tokens": 9, "temperature": 0}
        chunks = await client.stream("/v1/completions", body)
        assert {"".join(chunk["choices"][0]["text"] for chunk in chunks)} == texts

    @pytest.mark.parametrize(
        ("change", "status", "param"),
        [
            ({"model": "nobody"}, 404, "model"),
            ({"messages": []}, 400, None),
            ({"temperature": -1}, 400, "temperature"),
            ({"max_tokens": MAX_LEN + 1}, 400, None),
            ({"messages": [{"role": "user", "content": "a" * MAX_LEN}]}, 400, None),
            ({"n": 0}, 400, None),
        ],
        ids=["model", "empty", "temperature", "max_tokens", "long", "n"],
    )
    async def test_errors_have_openai_s_shape(
        self, client: Client, engine: Engine, change: dict[str, Any], status: int, param: str | None
    ) -> None:
        found, body = await client.post("/v1/chat/completions", ask(engine.base, "abc") | change)
        assert found == status, body
        error = body["error"]
        assert error["code"] == status
        assert error["message"]
        assert error["type"]
        if param is not None:
            assert error["param"] == param

    async def test_a_body_that_is_no_json(self, client: Client) -> None:
        status, body = await client.post("/v1/chat/completions", b"{not json")
        assert status == 400
        assert body["error"]["message"]

    async def test_odd_texts(self, client: Client, engine: Engine) -> None:
        texts = ["", " ", "\0", "naïve ☃ 安全 \U0001f600", "<|end|>", '"}]}', "{{ 7 * 7 }}"]
        answers = await asyncio.gather(*(client.chat(engine.base, text, logprobs=True) for text in texts))
        for answer in answers:
            told = answer["choices"][0]["logprobs"]["content"]
            assert all(math.isfinite(entry["logprob"]) for entry in told)


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    """A body back as arguments of `Client.chat`."""
    rest = {name: value for name, value in body.items() if name != "messages"}
    return {"question": body["messages"][0]["content"], **rest}
