"""What only the embedded server promises: batches, cancelled work, its command line, its limits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel.clock import SystemClock
from sentinel.embedded.model_server.adapters import AdaptedModel
from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.guards.wire import Wire, encoded
from tests.integration.serving.client import Client, ask
from tests.integration.serving.conftest import BASE
from tests.integration.serving.reference import QUESTIONS, Reference
from tests.support.tiny_llama import TinyLlama
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def client(embedded: ThreadedModelServer) -> AsyncIterator[Client]:
    async with Client(embedded.url) as client:
        yield client


def busy(server: ThreadedModelServer) -> int:
    counts = server.server.engine.counts
    return counts.running + counts.waiting


async def test_requests_are_decoded_together_and_answered_as_alone(
    client: Client, embedded: ThreadedModelServer, reference: Reference
) -> None:
    steps = embedded.server.engine.counts.steps
    limits = [4 + number for number in range(20)]
    questions = [QUESTIONS[number % 4] for number in range(20)]
    answers = await asyncio.gather(
        *(
            client.text(BASE, question, max_tokens=limit)
            for question, limit in zip(questions, limits, strict=True)
        )
    )
    for answer, question, limit in zip(answers, questions, limits, strict=True):
        assert answer == reference.text("base", question, limit)
    counts = embedded.server.engine.counts
    assert counts.largest_batch >= 8
    assert counts.steps - steps < sum(limits) / 2


async def test_more_requests_than_rows_wait_for_their_turn(
    tiny_llama: TinyLlama, reference: Reference
) -> None:
    with ThreadedModelServer(tiny_llama.model, name=BASE, max_batch=2) as server:
        async with Client(server.url) as client:
            texts = await asyncio.gather(*(client.text(BASE, question) for question in QUESTIONS * 2))
        assert texts == [reference.text("base", question) for question in QUESTIONS * 2]
        assert server.server.engine.counts.largest_batch == 2


async def test_logits_differ_by_rounding_only_in_company(client: Client) -> None:
    async def told() -> list[float]:
        answer = await client.chat(BASE, "abc", logprobs=True)
        return [entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"]]

    alone = await told()
    assert await told() == alone
    together = await asyncio.gather(*(told() for _ in range(12)))
    for found in together:
        assert found == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("stream", [False, True])
async def test_work_for_a_client_that_went_away_ends(
    client: Client, embedded: ThreadedModelServer, stream: bool
) -> None:
    written = embedded.server.engine.counts.generated_tokens
    body = ask(BASE, "abc", max_tokens=400, ignore_eos=True, stream=stream, n=8, temperature=1.0)

    async def leave() -> None:
        async with client.session.post("/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
            await asyncio.sleep(60)

    task = asyncio.create_task(leave())
    await wait_until(lambda: busy(embedded) == 8)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await wait_until(lambda: busy(embedded) == 0)
    assert embedded.server.engine.counts.generated_tokens - written < 8 * 400


async def test_an_abandoned_request_does_not_hold_its_adapter(
    client: Client, tiny_llama: TinyLlama, embedded: ThreadedModelServer
) -> None:
    await client.load("beta", tiny_llama.beta)
    body = ask("beta", "abc", max_tokens=450, ignore_eos=True, n=4, temperature=1.0)
    task = asyncio.create_task(
        client.chat(**{"question": "abc", **{k: v for k, v in body.items() if k != "messages"}})
    )
    await wait_until(lambda: busy(embedded) == 4)
    task.cancel()
    await asyncio.wait_for(client.unload("beta"), 60)


async def test_stop_strings_across_tokens_and_choices(client: Client, reference: Reference) -> None:
    whole = reference.text("base", "abc")
    for start, size in ((0, 2), (5, 1), (7, 6), (20, 4)):
        stop = whole[start : start + size]
        for body in (ask(BASE, "abc", stop=stop), ask(BASE, "abc", stop=["~" * 9, stop])):
            chunks = await client.stream("/v1/chat/completions", body)
            text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
            assert text == whole[: whole.index(stop)]


async def test_the_guard_client_s_wire(
    client: Client, embedded: ThreadedModelServer, reference: Reference
) -> None:
    wire = Wire(
        embedded.url, BASE, {"max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 10},
        api_key="any", connect_s=1.0, total_s=20.0, max_response_bytes=1 << 20, clock=SystemClock(),
    )  # fmt: skip
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    try:
        replies = await wire.batch(encoded(conversations), len(conversations))
        single = await wire.single(encoded(conversations[0]))
    finally:
        await wire.aclose()
    assert [reply.text for reply in replies] == [reference.text("base", question) for question in QUESTIONS]
    assert single.text == replies[0].text
    assert single.logprobs is not None
    assert len(single.logprobs[0].top_logprobs) == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"3": 1.0}),
        ("response_format", {"type": "json_object"}),
        ("stream_options", {"include_usage": True}),
        ("top_logprobs", 3),
        ("continue_final_message", True),
    ],
)
async def test_what_would_change_the_answer_is_refused_rather_than_passed_over(
    client: Client, name: str, value: Any
) -> None:
    status, body = await client.post("/v1/chat/completions", ask(BASE, "abc") | {name: value})
    assert status == 400
    assert body["error"]["param"] == name


async def test_the_admin_token_guards_adapters_only(tiny_llama: TinyLlama) -> None:
    with ThreadedModelServer(tiny_llama.model, name=BASE, admin_token="secret") as server:
        body = {"lora_name": "alpha", "lora_path": str(tiny_llama.alpha)}
        async with Client(server.url) as stranger, Client(server.url, token="secret") as admin:
            for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
                status, answer = await stranger.post(path, body)
                assert status == 401
                assert answer["error"]["type"] == "AuthenticationError"
            await stranger.text(BASE, "abc")
            await admin.load("alpha", tiny_llama.alpha)
            assert "alpha" in await stranger.models()
            await admin.unload("alpha")


async def test_no_more_adapters_than_allowed(tiny_llama: TinyLlama) -> None:
    with ThreadedModelServer(tiny_llama.model, name=BASE, max_loras=2) as server:
        async with Client(server.url) as client:
            await client.load("one", tiny_llama.alpha)
            await client.load("two.with.dots", tiny_llama.beta)
            status, body = await client.post(
                "/v1/load_lora_adapter", {"lora_name": "three", "lora_path": str(tiny_llama.alpha)}
            )
            assert status == 400
            assert "max_loras" in body["error"]["message"]
            await client.unload("one")
            await client.load("three", tiny_llama.alpha)


async def test_a_failure_of_the_model_fails_its_requests_and_is_told(
    tiny_llama: TinyLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with ThreadedModelServer(tiny_llama.model, name=BASE) as server:
        async with Client(server.url) as client:
            monkeypatch.setattr(AdaptedModel, "activate", fail)
            status, body = await client.post("/v1/chat/completions", ask(BASE, "abc"))
            assert status == 500
            assert "out of memory" in body["error"]["message"]
            async with client.session.get("/health") as answer:
                assert answer.status == 503
            status, _ = await client.post("/v1/chat/completions", ask(BASE, "abc"))
            assert status == 503
            status, _ = await client.post(
                "/v1/load_lora_adapter", {"lora_name": "alpha", "lora_path": str(tiny_llama.alpha)}
            )
            assert status == 503


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Any:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "sentinel.embedded.model_server", *arguments],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ),
            )
        )  # fmt: skip
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


async def test_the_command_prints_its_address_and_ends_on_a_signal(
    start: Start, tiny_llama: TinyLlama, reference: Reference, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    process = start(
        "--model", str(tiny_llama.model), "--port", "0", "--served-name", "served",
        "--max-lora-rank", "4", "--admin-token-file", str(token),
    )  # fmt: skip
    assert process.stdout is not None
    url = (await asyncio.to_thread(process.stdout.readline)).strip()
    assert url.startswith("http://127.0.0.1:")
    async with Client(url, token="secret") as client:
        assert await client.models() == {"served": None}
        assert await client.text("served", "abc") == reference.text("base", "abc")
        await client.load("beta", tiny_llama.beta)
        status, body = await client.post(
            "/v1/load_lora_adapter", {"lora_name": "alpha", "lora_path": str(tiny_llama.alpha)}
        )
        assert status == 400
        assert "max_lora_rank 4" in body["error"]["message"]
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) in (0, -signal.SIGTERM)


async def test_the_command_refuses_a_folder_without_a_model(start: Start, tmp_path: Path) -> None:
    process = start("--model", str(tmp_path))
    assert await asyncio.to_thread(process.wait, 240) == 78
