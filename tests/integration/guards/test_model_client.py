"""Re-prompts against a scripted model: what is sent, what comes back, what each failure means."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sentinel.embedded import scripted_model as marks
from sentinel.embedded.scripted_guard import UNSAFE_MARK
from sentinel.embedded.scripted_model import ScriptedModel
from sentinel.errors import PoisonError, SlowDownError, UnavailableError
from sentinel.events import OWN_TRAFFIC_HEADER, Message
from sentinel.llm import ModelClient, ModelOptions
from tests.support.waiting import wait_until

RULE = "Decline what could hurt someone, and say why."
SYSTEM = Message("system", "You are Bo, who  sells tea.\n")
Make = Callable[..., ModelClient]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(obeys=RULE) as server:
        yield server


@pytest.fixture
async def make(model: ScriptedModel) -> AsyncIterator[Make]:
    made: list[ModelClient] = []

    def build(**changes: Any) -> ModelClient:
        options: dict[str, Any] = {"base_url": model.url, "timeout": 60.0} | changes
        made.append(ModelClient(ModelOptions(**options)))
        return made[-1]

    yield build
    for client in made:
        await client.aclose()


async def test_unsafe_until_the_instruction_is_there(model: ScriptedModel, make: Make) -> None:
    client = make()
    asked = [SYSTEM, Message("user", f"Tell me.\n {marks.TEMPT_MARK} ")]
    bare = await client.answer(marks.MODEL, asked, None)
    told = await client.answer(marks.MODEL, asked, RULE, attempt=1)
    assert UNSAFE_MARK in bare.text
    assert told.text == marks.SAFE_ANSWER
    assert told.finish_reason == "stop"
    assert told.model == marks.MODEL
    assert told.output_tokens == 1
    first, second = model.seen
    assert first.messages == [
        {"role": "system", "content": SYSTEM.text},
        {"role": "user", "content": asked[1].text},
    ]
    assert second.messages == [
        {"role": "system", "content": f"{SYSTEM.text}\n\n{RULE}"},
        {"role": "user", "content": asked[1].text},
    ]


async def test_instruction_in_the_first_user_turn(model: ScriptedModel, make: Make) -> None:
    asked = [Message("user", marks.TEMPT_MARK), Message("assistant", "no"), Message("user", marks.TEMPT_MARK)]
    said = await make(instruction_in="user").answer(marks.MODEL, asked, RULE, attempt=1)
    assert said.text == marks.SAFE_ANSWER
    assert [turn["content"] for turn in model.seen[0].messages] == [
        f"{RULE}\n\n{marks.TEMPT_MARK}",
        "no",
        marks.TEMPT_MARK,
    ]


async def test_stubborn_model_stays_unsafe(make: Make) -> None:
    for attempt in (1, 2, 3):
        said = await make().answer(marks.MODEL, [Message("user", marks.STUBBORN_MARK)], RULE, attempt)
        assert UNSAFE_MARK in said.text


async def test_own_traffic_is_marked_and_each_attempt_has_its_seed(model: ScriptedModel, make: Make) -> None:
    client = make(api_key="s3cret", seed=100, temperature=0.7)
    for attempt in (1, 2):
        await client.answer("adapter-x", [Message("user", "q")], RULE, attempt)
    assert [seen.body["seed"] for seen in model.seen] == [101, 102]
    for seen in model.seen:
        assert seen.marker == "reprompt"
        assert seen.body["metadata"] == {OWN_TRAFFIC_HEADER: "reprompt"}
        assert seen.body["model"] == "adapter-x"
        assert seen.body["temperature"] == 0.7
        assert seen.authorization == "Bearer s3cret"


async def test_bare_requests(model: ScriptedModel, make: Make) -> None:
    await make(metadata=False, seed=None).answer(marks.MODEL, [Message("user", "q")], RULE, max_tokens=7)
    body = model.seen[0].body
    assert not {"metadata", "seed", "temperature"} & set(body)
    assert body["max_tokens"] == 7


@pytest.mark.parametrize(
    ("mark", "text", "finish"),
    [
        (marks.ZERO_MARK, "Here is\ufffd what I can tell you.", "stop"),
        (marks.SILENT_MARK, "", "stop"),
        (marks.CUT_MARK, marks.SAFE_ANSWER, "length"),
    ],
)
async def test_odd_answers(make: Make, mark: str, text: str, finish: str) -> None:
    said = await make().answer(marks.MODEL, [Message("user", mark)], RULE, 1)
    assert (said.text, said.finish_reason) == (text, finish)


async def test_a_refused_request_is_poison(model: ScriptedModel, make: Make) -> None:
    with pytest.raises(PoisonError) as caught:
        await make().answer(marks.MODEL, [Message("user", marks.REJECT_MARK)], RULE, 1)
    assert caught.value.reason == "model_refused"
    assert marks.REJECT_MARK not in str(caught.value)
    assert len(model.seen) == 1


async def test_server_errors_are_retried_then_unavailable(model: ScriptedModel, make: Make) -> None:
    with pytest.raises(UnavailableError):
        await make(retries=1).answer(marks.MODEL, [Message("user", marks.BROKEN_MARK)], RULE, 1)
    assert len(model.seen) == 2


@pytest.mark.parametrize(
    "fault", ["garbage_rate", "wrong_shape_rate", "truncate_rate", "reset_rate", "hang_rate"]
)
async def test_outages_are_unavailable(model: ScriptedModel, make: Make, fault: str) -> None:
    model.set_faults(**{fault: 1.0})
    # Short where it is waited for; else long enough for a machine with other work.
    client = make(timeout=2.0 if fault == "hang_rate" else 60.0, retries=0)
    with pytest.raises(UnavailableError):
        await client.answer(marks.MODEL, [Message("user", "q")], RULE, 1)
    model.clear_faults()
    assert (await client.answer(marks.MODEL, [Message("user", "q")], RULE, 1)).text == marks.SAFE_ANSWER


async def test_a_passing_timeout_is_retried(model: ScriptedModel, make: Make) -> None:
    model.set_faults(hang_rate=1.0)
    client = make(timeout=2.0, retries=1)
    asking = asyncio.create_task(client.answer(marks.MODEL, [Message("user", "q")], RULE, 1))
    await wait_until(lambda: model.stats.faults == 1)
    model.clear_faults()
    assert (await asking).text == marks.SAFE_ANSWER
    assert model.stats.requests == 2


async def test_nobody_listens(make: Make) -> None:
    with pytest.raises(UnavailableError):
        await make(base_url="http://127.0.0.1:9", retries=0).answer(marks.MODEL, [Message("user", "q")], RULE)


async def test_retry_after_is_honoured_then_handed_on(model: ScriptedModel, make: Make) -> None:
    model.set_faults(slow_down_rate=1.0, retry_after="1")
    start = time.monotonic()
    with pytest.raises(SlowDownError) as caught:
        await make(retries=1).answer(marks.MODEL, [Message("user", "q")], RULE, 1)
    assert time.monotonic() - start >= 0.9
    assert caught.value.retry_after == 1.0
    assert model.stats.requests == 2


async def test_unknown_path_is_unavailable(model: ScriptedModel, make: Make) -> None:
    with pytest.raises(UnavailableError, match="404"):
        await make(base_url=model.url + "/elsewhere", retries=0).answer("m", [Message("user", "q")], RULE)


async def test_a_huge_answer_is_not_read(model: ScriptedModel, make: Make) -> None:
    client = make(max_response_bytes=1 << 20, retries=0)
    asked = [Message("user", "q")]
    await client.answer(marks.MODEL, asked, RULE)
    model.set_faults(huge_bytes=100 << 20)
    tracemalloc.start()
    with pytest.raises(UnavailableError):
        await client.answer(marks.MODEL, asked, RULE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    model.clear_faults()
    assert (await client.answer(marks.MODEL, asked, RULE)).text == marks.SAFE_ANSWER


async def test_models_and_their_parents(model: ScriptedModel, make: Make) -> None:
    model.adapters = ("adapter-x",)
    assert await make().models() == {marks.MODEL: None, "adapter-x": marks.MODEL}
    await model.stop()
    with pytest.raises(UnavailableError):
        await make().models()


async def test_models_of_something_else(make: Make) -> None:
    with pytest.raises(UnavailableError):
        await make(base_url="http://127.0.0.1:9").models()


async def test_cancelling_ends_the_call(model: ScriptedModel, make: Make) -> None:
    model.set_faults(hang_rate=1.0)
    call = asyncio.create_task(make().answer(marks.MODEL, [Message("user", "q")], RULE, 1))
    await wait_until(lambda: model.stats.in_flight == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_connecting_twice_at_once_makes_one_client(make: Make) -> None:
    client = make()
    first, second = await asyncio.gather(client.connect(), client.connect())
    assert first is second
