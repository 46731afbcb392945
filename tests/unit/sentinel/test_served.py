"""Which served model an event belongs to, and which of its weights answered."""

from __future__ import annotations

import datetime as dt
from uuid import uuid4

import pytest

from sentinel.events import Origin, PromptEvent
from sentinel.served import ServedModel, ServedModels

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def minutes(number: float) -> dt.datetime:
    return NOON + dt.timedelta(minutes=number)


@pytest.fixture
def served() -> ServedModels:
    return ServedModels(
        [
            ServedModel(name="chat", public_name="assistant", base="org/chat", event_models=("chat-*",)),
            ServedModel(name="code", public_name="coder", base="org/code"),
        ]
    )


def event(
    model: str | None,
    *,
    at: dt.datetime | None = None,
    received: float = 60,
    served_by: str | None = None,
) -> PromptEvent:
    return PromptEvent(
        event_id=uuid4(),
        origin=Origin("t", 0, 0, 0, 0),
        identified=True,
        format="native",
        messages=(),
        response="yes",
        received_ms=int(minutes(received).timestamp() * 1000),
        event_time=at,
        model=model,
        served_by=served_by,
    )


def by(served: ServedModels, one: PromptEvent) -> str | None:
    name = served.match(one.model)
    return one.served_by if name is None else served.attributed(one, name).served_by


def test_by_the_settings_alone(served: ServedModels) -> None:
    assert [served.match(name) for name in ("assistant", "org/chat", "chat-7", "coder", "x", None)] == [
        "chat",
        "chat",
        "chat",
        "code",
        None,
        None,
    ]
    assert not served.attributing


def test_adapters_and_bases_are_learnt(served: ServedModels) -> None:
    assert served.match("ada-1") is None
    assert served.match("tiny") is None
    served.learn({"ada-1": "chat", "chat-but-code": "code", "lost": "gone"}, {})
    served.learn_bases("chat", ["tiny", "assistant"])
    assert served.match("ada-1") == "chat"
    # An adapter's own name is surer than a pattern.
    assert served.match("chat-but-code") == "code"
    assert served.match("tiny") == "chat"
    assert served.match("lost") is None
    assert by(served, event("ada-1")) == "ada-1"
    assert by(served, event("tiny")) == "tiny"
    assert by(served, event("chat-7")) is None
    # A base that is served under the public name says nothing about who answered there.
    assert by(served, event("assistant")) is None


def test_what_the_reporter_says_stands(served: ServedModels) -> None:
    served.learn({"ada-1": "chat"}, {"chat": [(minutes(0), "ada-1")]})
    assert by(served, event("assistant", served_by="tiny")) == "tiny"
    assert by(served, event("unknown", served_by="ada-1")) == "ada-1"


def test_the_public_name_stands_for_what_was_promoted_then(served: ServedModels) -> None:
    served.learn(
        {"a": "chat", "b": "chat"},
        {"chat": [(minutes(0), "a"), (minutes(10), "b"), (minutes(20), "a"), (minutes(30), None)]},
    )
    found = [by(served, event("assistant", at=minutes(at))) for at in (-1, 0, 5, 15, 25, 35)]
    assert found == [None, "a", "a", "b", "a", None]
    # Without a time of its own: when the record came to lie in the log.
    assert by(served, event("assistant", received=15)) == "b"
    # A producer whose clock is ahead cannot have answered after its record was there.
    assert by(served, event("assistant", at=minutes(99), received=5)) == "a"
    assert by(served, event("coder", at=minutes(15))) is None


def test_a_clock_that_was_set_back_between_two_promotions(served: ServedModels) -> None:
    served.learn({}, {"chat": [(minutes(10), "a"), (minutes(9), "b")]})
    assert by(served, event("assistant", received=9.5)) is None
    assert by(served, event("assistant", received=11)) == "b"


def test_nothing_is_attributed_where_nothing_is_promoted(served: ServedModels) -> None:
    """What the hot path asks first; one attribute, and no event is looked at."""
    assert served.match("assistant") is not None
    assert not served.attributing
