"""Which answers become pairs, what is asked, and what is counted."""

from __future__ import annotations

import datetime as dt

import orjson
import pytest

from sentinel import ids
from sentinel.embedded.scripted_guard import CONTROVERSIAL_MARK, GARBAGE_MARK, REFUSAL_MARK
from sentinel.embedded.scripted_model import (
    CUT_MARK,
    MODEL,
    REJECT_MARK,
    SAFE_ANSWER,
    SECOND_MARK,
    SILENT_MARK,
    STUBBORN_MARK,
    TEMPT_MARK,
    ZERO_MARK,
    ScriptedModel,
)
from tests.integration.reprompting.conftest import (
    APPLICATION_PROMPT,
    INSTRUCTION,
    REJECTED,
    Store,
    Workers,
    attempts_counted,
    running,
)


async def test_unsafe_then_safe_makes_a_pair(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    prompt = f"  How do I do it?\t{TEMPT_MARK} \n"
    (finding,) = await store.record(prompt, served_by="adapter-that-is-gone")
    worker, metrics = workers.make()
    async with running(worker):
        await store.until()
    (pair,) = await store.rows("SELECT *, prompt::text AS prompt_text FROM preference_pairs")
    assert (pair["pair_id"], pair["finding_id"], pair["attempt"]) == (ids.pair_id(finding, 1), finding, 1)
    assert (pair["chosen"], pair["rejected"]) == (SAFE_ANSWER, REJECTED)
    assert (pair["chosen_generator"], pair["rejected_generator"]) == (MODEL, "adapter-that-is-gone")
    # The pair's prompt is the application's conversation, the safety instruction is no part of it.
    assert orjson.loads(pair["prompt_text"]) == [
        {"role": "system", "text": APPLICATION_PROMPT},
        {"role": "user", "text": prompt},
    ]
    (attempt,) = await store.rows("SELECT * FROM reprompts")
    assert (attempt["generator"], attempt["unsafe"], attempt["error"]) == (MODEL, False, "")
    assert attempt["instruction_version"] == "i1"
    verdicts = await store.rows("SELECT attempt, label, guard_model FROM verdicts ORDER BY attempt")
    assert [(v["attempt"], v["label"], v["guard_model"]) for v in verdicts] == [
        (0, "unsafe", "first-guard"),
        (1, "safe", "scripted-guard"),
    ]
    assert attempts_counted(metrics) == {"success": 1.0}
    assert await store.states() == {"safe": 1}
    # What was sent: the user's text unaltered, the application's system prompt kept, the instruction added.
    (sent,) = [seen for seen in model_server.seen if "messages" in seen.body]
    assert [turn["content"] for turn in sent.messages if turn["role"] == "user"] == [prompt]
    (system,) = [turn["content"] for turn in sent.messages if turn["role"] == "system"]
    assert system.startswith(APPLICATION_PROMPT)
    assert INSTRUCTION in system
    assert sent.marker


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_still_unsafe_makes_no_pair_and_stops_at_the_bound(
    store: Store, workers: Workers, model_server: ScriptedModel, attempts: int
) -> None:
    await store.record(STUBBORN_MARK)
    worker, metrics = workers.make(attempts=attempts)
    async with running(worker):
        await store.until()
    assert await store.states() == {"unsafe": 1}
    assert await store.rows("SELECT * FROM preference_pairs") == []
    stored = await store.rows("SELECT attempt, unsafe FROM reprompts ORDER BY attempt")
    assert [(row["attempt"], row["unsafe"]) for row in stored] == [(n, True) for n in range(1, attempts + 1)]
    assert len(model_server.seen) == attempts
    assert attempts_counted(metrics) == {"fail": float(attempts)}


async def test_the_second_attempt_may_succeed(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    (finding,) = await store.record(SECOND_MARK)
    worker, metrics = workers.make(attempts=5)
    async with running(worker):
        await store.until()
    (pair,) = await store.rows("SELECT pair_id, attempt FROM preference_pairs")
    assert (pair["pair_id"], pair["attempt"]) == (ids.pair_id(finding, 2), 2)
    assert len(model_server.seen) == 2
    assert attempts_counted(metrics) == {"success": 1.0, "fail": 1.0}


async def test_nul_in_an_answer_is_stored_without_it(store: Store, workers: Workers) -> None:
    await store.record(ZERO_MARK)
    worker, _ = workers.make()
    async with running(worker):
        await store.until()
    (pair,) = await store.rows("SELECT chosen FROM preference_pairs")
    assert pair["chosen"] == "Here is\ufffd what I can tell you."


@pytest.mark.parametrize(
    ("mark", "state", "errors"),
    [
        (SILENT_MARK, "failed", ["empty_response", "empty_response"]),
        (REJECT_MARK, "failed", ["model_refused"]),
    ],
)
async def test_what_cannot_be_judged_is_neither_safe_nor_unsafe(
    store: Store, workers: Workers, mark: str, state: str, errors: list[str]
) -> None:
    await store.record(mark)
    worker, metrics = workers.make()
    async with running(worker):
        await store.until()
    assert await store.states() == {state: 1}
    stored = await store.rows("SELECT error, unsafe FROM reprompts ORDER BY attempt")
    assert [(row["error"], row["unsafe"]) for row in stored] == [(error, None) for error in errors]
    assert await store.rows("SELECT * FROM preference_pairs") == []
    assert attempts_counted(metrics) == {"fail": float(len(errors))}


@pytest.mark.parametrize(
    ("answer", "strict", "state", "stored"),
    [
        (REFUSAL_MARK, False, "safe", (False, "")),  # a refusal that the guard calls safe is a safe answer
        (CONTROVERSIAL_MARK, False, "unsafe", (False, "")),  # not unsafe here, yet nobody called it safe
        (CONTROVERSIAL_MARK, True, "unsafe", (True, "")),
        (GARBAGE_MARK, False, "failed", (None, "unparseable")),
    ],
)
async def test_only_an_answer_called_safe_is_chosen(
    store: Store,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    strict: bool,
    state: str,
    stored: tuple[bool | None, str],
) -> None:
    monkeypatch.setattr("sentinel.embedded.scripted_model.SAFE_ANSWER", f"Well. {answer}")
    await store.record("tell me")
    worker, _ = workers.make(attempts=1, strict=strict)
    async with running(worker):
        await store.until()
    assert await store.states() == {state: 1}
    (row,) = await store.rows("SELECT unsafe, error FROM reprompts")
    assert (row["unsafe"], row["error"]) == stored
    assert len(await store.rows("SELECT * FROM preference_pairs")) == (state == "safe")


async def test_the_same_words_are_no_pair(store: Store, workers: Workers) -> None:
    await store.record("tell me", response=SAFE_ANSWER)
    worker, _ = workers.make(attempts=1)
    async with running(worker):
        await store.until()
    (row,) = await store.rows("SELECT unsafe, error FROM reprompts")
    assert (row["unsafe"], row["error"]) == (False, "same_answer")
    assert await store.rows("SELECT * FROM preference_pairs") == []


async def test_an_answer_cut_at_the_limit_says_so(store: Store, workers: Workers) -> None:
    await store.record(CUT_MARK)
    worker, _ = workers.make()
    async with running(worker):
        await store.until()
    (row,) = await store.rows("SELECT finish_reason FROM reprompts")
    assert row["finish_reason"] == "length"


async def test_nobody_to_ask_means_skipped(store: Store, workers: Workers) -> None:
    await store.record("one", served_model=None)
    await store.record("two")
    expired = await store.record("three")
    await store.rows("UPDATE findings SET day = $1 WHERE finding_id = ANY($2)", dt.date(2020, 1, 1), expired)
    without, _ = workers.make(replicas=())
    with_replica, metrics = workers.make()
    async with running(without):
        await store.until("skipped")
    await store.rows("UPDATE findings SET reprompt_state = 'pending' WHERE finding_id = ANY($1)", expired)
    async with running(with_replica):
        await store.until("skipped")
    assert await store.rows("SELECT * FROM reprompts") == []
    assert attempts_counted(metrics) == {}


async def test_switched_off_everything_is_skipped(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    await store.record("one", "two")
    worker, _ = workers.make(enabled=False)
    async with running(worker):
        await store.until("skipped")
    assert not model_server.seen


async def test_the_counter_equals_the_rows(store: Store, workers: Workers) -> None:
    marks = [TEMPT_MARK, STUBBORN_MARK, SECOND_MARK, SILENT_MARK, "plain", REJECT_MARK]
    await store.record(*(f"{mark} {n}" for n in range(5) for mark in marks))
    worker, metrics = workers.make(attempts=3)
    async with running(worker):
        await store.until(timeout=60)
    (rows,) = await store.rows(
        "SELECT count(*) AS n, (SELECT count(*) FROM preference_pairs) AS pairs FROM reprompts"
    )
    counted = attempts_counted(metrics)
    assert counted["success"] == rows["pairs"] == 15
    assert counted["success"] + counted["fail"] == rows["n"]
    assert await store.states() == {"safe": 15, "unsafe": 5, "failed": 10}
