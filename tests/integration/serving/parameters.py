"""Parameters of generation, each in a case that fails where an engine passes it over: completions and streams."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.serving.client import Client, ask
from tests.integration.serving.contract import Engine, EngineContract
from tests.integration.serving.reference import Reference

PROMPT = "abc"


def texts(answer: dict[str, Any]) -> list[str]:
    """The choices' texts of a legacy completion, which must be numbered from 0."""
    assert [choice["index"] for choice in answer["choices"]] == [*range(len(answer["choices"]))]
    return [choice["text"] for choice in answer["choices"]]


class ParameterContract(EngineContract):
    """`/v1/completions` with what chats take, log-probabilities beyond the prompt, and streams of several choices."""

    async def test_choices_and_seeds_of_a_completion(self, client: Client, engine: Engine) -> None:
        async def three(seed: int) -> list[str]:
            answer = await client.complete(
                engine.base, PROMPT, n=3, seed=seed, temperature=1.0, max_tokens=16
            )
            return texts(answer)

        first, again, other = await three(7), await three(7), await three(100)
        assert first == again
        assert len({*first}) == 3
        assert not {*first} & {*other}

    async def test_each_prompt_has_its_choices_in_order(self, client: Client, engine: Engine) -> None:
        asked = ["abc", "What is it?"]
        # vLLM takes several choices only where they are sampled; from so small a share each is the greedy one.
        both = await client.complete(engine.base, asked, n=2, max_tokens=5, temperature=1.0, top_p=0.01)
        alone = [texts(await client.complete(engine.base, prompt, max_tokens=5))[0] for prompt in asked]
        assert alone[0] != alone[1]
        assert texts(both) == [alone[0], alone[0], alone[1], alone[1]]

    async def test_temperature_top_p_and_length_of_a_completion(self, client: Client, engine: Engine) -> None:
        async def one(**more: Any) -> str:
            return texts(await client.complete(engine.base, PROMPT, max_tokens=16, **more))[0]

        greedy = await one()
        assert await one(temperature=1.0, top_p=0.01) == greedy
        hot = {await one(temperature=1.0, seed=seed) for seed in range(4)}
        assert len(hot) == 4
        assert greedy not in hot
        answer = await client.complete(engine.base, PROMPT, max_tokens=5)
        assert answer["usage"]["completion_tokens"] == 5
        assert answer["choices"][0]["finish_reason"] == "length"
        assert greedy.startswith(answer["choices"][0]["text"])
        assert greedy != answer["choices"][0]["text"]

    async def test_stop_strings_of_a_completion(self, client: Client, engine: Engine) -> None:
        (whole,) = texts(await client.complete(engine.base, PROMPT, max_tokens=16))
        stop = whole[6:9]
        for given in (stop, ["not in it", stop]):
            answer = await client.complete(engine.base, PROMPT, max_tokens=16, stop=given)
            assert texts(answer) == [whole[: whole.index(stop)]]
            assert answer["choices"][0]["finish_reason"] == "stop"

    async def test_log_probabilities_of_an_echo_go_on_in_the_answer(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        (plain,) = texts(await client.complete(engine.base, PROMPT, max_tokens=6))
        answer = await client.complete(engine.base, PROMPT, max_tokens=6, echo=True, logprobs=2)
        (choice,) = answer["choices"]
        assert choice["text"] == PROMPT + plain
        told = choice["logprobs"]
        assert "".join(told["tokens"]) == choice["text"]
        first, *rest = told["token_logprobs"]
        assert first is None
        assert len(rest) == len(PROMPT) - 1 + 6
        expected = reference.logprobs("base", reference.encode(choice["text"]))
        assert rest == pytest.approx(expected, abs=engine.tolerance)
        # What was chosen greedily is among the likeliest; of a prompt's token that is not promised.
        for token, value, top in zip(
            told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True
        ):
            if top is None:
                continue
            assert 2 <= len(top) <= 3
            assert top[token] == pytest.approx(value, abs=engine.tolerance)
        generated = told["top_logprobs"][len(PROMPT) :]
        assert all(
            max(top, key=top.__getitem__) == token for token, top in zip(plain, generated, strict=True)
        )

    async def test_log_probabilities_without_an_echo(
        self, client: Client, engine: Engine, reference: Reference
    ) -> None:
        answer = await client.complete(engine.base, PROMPT, max_tokens=6, logprobs=1)
        (choice,) = answer["choices"]
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        expected = reference.logprobs("base", reference.encode(PROMPT + choice["text"]))[len(PROMPT) - 1 :]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=engine.tolerance)
        plain = await client.complete(engine.base, PROMPT, max_tokens=6)
        assert plain["choices"][0]["logprobs"] is None

    async def test_a_stream_of_several_choices_with_log_probabilities(
        self, client: Client, engine: Engine
    ) -> None:
        more = {"n": 2, "seed": 7, "temperature": 1.0, "max_tokens": 8, "logprobs": True}
        whole = await client.chat(engine.base, PROMPT, **more)
        expected = {choice["index"]: choice["message"]["content"] for choice in whole["choices"]}
        assert expected[0] != expected[1]
        # Token by token: what a special token says is told and left out of the text.
        entries = {
            choice["index"]: [entry["token"] for entry in choice["logprobs"]["content"]]
            for choice in whole["choices"]
        }
        found: dict[int, str] = {0: "", 1: ""}
        told: dict[int, list[str]] = {0: [], 1: []}
        ends: dict[int, str] = {}
        for chunk in await client.stream("/v1/chat/completions", ask(engine.base, PROMPT, **more)):
            for choice in chunk["choices"]:
                index = choice["index"]
                found[index] += choice["delta"].get("content") or ""
                for entry in (choice.get("logprobs") or {}).get("content") or []:
                    told[index].append(entry["token"])
                if choice["finish_reason"] is not None:
                    ends[index] = choice["finish_reason"]
        assert found == expected
        assert told == entries
        assert ends == {choice["index"]: choice["finish_reason"] for choice in whole["choices"]}
