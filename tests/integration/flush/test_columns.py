"""Every column of what a flush copies is read back: the bytes are made here, not by the driver."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from msgspec.structs import replace

from sentinel.events import Message
from sentinel.interactions import Flag, Interaction
from sentinel.outcomes import Outcome
from sentinel.store.rows import INTERACTION_COLUMNS, TEXT_COLUMNS, VERDICT_COLUMNS
from sentinel.verdicts import Label, Role
from tests.support.recordings import NOW, Ledger, event, verdict

FULL: dict[str, Any] = {
    "messages": (Message("system", "Be brief."), Message("user", 'Was heißt "ü"?\n\u2028 😀')),
    "response": "Ein Umlaut: ü, 漢字, 😀.",
    "response_extra": "thought",
    "received_ms": 1_772_000_000_123,
    "event_time": dt.datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    "source": "shop",
    "tenant": "nörd",
    "model": "model-b",
    "provider": "own",
    "user_ref": "u" * 16,
    "conversation_id": "c-1",
    "choice": 32_767,
    "finish_reason": "stop",
    "input_tokens": 0,
    "output_tokens": 2**31 - 1,
    "trace_id": "0" * 32,
    "span_id": "1" * 16,
    "served_by": "adapter-1",
    "client_verdicts": ({"label": "ok"},),
    "attrs": {"a": [1, None, "ü"], "b": {"c": 1.5}},
    "nul_replaced": True,
    "unscanned_parts": 3,
}


def _full() -> Interaction:
    of = event(0, None, **FULL)
    asked = verdict(of, Role.PROMPT, Label.CONTROVERSIAL, windows=2)
    answered = verdict(of, Role.RESPONSE, Label.UNSAFE, refusal=True, score=0.25)
    return Interaction(
        event=of,
        outcome=Outcome.STORED,
        prompt_verdict=replace(asked, attempt=2, score_run=7),
        response_verdict=answered,
        unsafe=True,
        policy_version="policy-2",
        served_model="support",
        sampling_probability=0.125,
    )


def _bare() -> Interaction:
    of = event(0, None, model=None, received_ms=-1)
    return Interaction(
        event=of, outcome=Outcome.UNSCORED, reason="guard_error", prompt_unscored="guard_error"
    )


@pytest.mark.parametrize("item", [_full(), _bare()], ids=["full", "bare"])
async def test_an_interaction_is_stored_as_it_is(ledger: Ledger, item: Interaction) -> None:
    await ledger.write([item], to=1)
    (row,) = await ledger.fetch("SELECT * FROM interactions")
    of, asked, answered = item.event, item.prompt_verdict, item.response_verdict
    full = asked is not None and answered is not None
    expected = {
        "day": NOW.date(),
        "received_at": dt.datetime(2026, 2, 25, 6, 13, 20, 123_000, tzinfo=dt.UTC) if full else NOW,
        "outcome": item.outcome.value,
        "reason": item.reason,
        "prompt_label": None if asked is None else asked.assessment.label.value,
        "response_label": None if answered is None else answered.assessment.label.value,
        "refusal": None if answered is None else answered.assessment.refusal,
        "unsafe": True if full else None,
        "guard_model": None if answered is None else answered.guard_model,
        "flags": Flag.UNIDENTIFIED | (Flag.NUL_REPLACED | Flag.WINDOWED if full else 0),
        "attrs": of.attrs or None,
        **{
            name: getattr(item, name)
            for name in ("served_model", "prompt_unscored", "policy_version", "sampling_probability")
        },
    }
    for name in INTERACTION_COLUMNS:
        wanted = expected[name] if name in expected else getattr(of, name)
        assert row[name] == wanted, name


@pytest.mark.parametrize("item", [_full(), _bare()], ids=["full", "bare"])
async def test_texts_are_stored_as_they_are(ledger: Ledger, item: Interaction) -> None:
    await ledger.write([item], to=1)
    (row,) = await ledger.fetch("SELECT * FROM interaction_texts")
    of = item.event
    found = {name: row[name] for name in TEXT_COLUMNS}
    assert found.pop("messages") == [{"role": m.role, "text": m.text} for m in of.messages]
    assert found.pop("client_verdicts") == (list(of.client_verdicts) or None)
    assert found == {
        "day": NOW.date(),
        "event_id": of.event_id,
        "response": of.response,
        "response_extra": of.response_extra,
    }


async def test_verdicts_are_stored_as_they_are(ledger: Ledger) -> None:
    # The same verdicts on two events, and on a third one that differs only where a row may not share its bytes.
    full = _full()
    assert full.prompt_verdict is not None
    same = replace(full, event=event(1, "second", **{**FULL, "received_ms": 0}))
    other = replace(
        full,
        event=event(2, "third", **FULL),
        prompt_verdict=replace(full.prompt_verdict, guard_id="f" * 16, policy_version="policy-3"),
    )
    items = [full, same, other]
    await ledger.write(items, to=3)
    stored = await ledger.fetch("SELECT * FROM verdicts")
    found = {(row["event_id"], row["role"]): row for row in stored}
    assert len(found) == len(stored) == 6
    for item in items:
        for said in (item.prompt_verdict, item.response_verdict):
            assert said is not None
            row = found[item.event.event_id, said.role.value]
            for name in set(VERDICT_COLUMNS) - {"day", "event_id", "categories"}:
                wanted = getattr(said, name) if hasattr(said, name) else getattr(said.assessment, name)
                assert row[name] == wanted, name
            assert row["day"] == NOW.date()
            assert tuple(row["categories"]) == said.assessment.categories
