"""Identities: equal where the same thing is reported twice, different everywhere else, and frozen for ever."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from sentinel import ids
from sentinel.clock import ManualClock, SystemClock

# Text that ids and tenants are made of; the unit separator is what keeps the parts apart.
names = st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), min_size=1, max_size=20)


def test_ids_never_change() -> None:
    """A release that computes other ids stores every event again."""
    event = ids.event_id_from_response("acme", "chatcmpl-1", 0)
    assert event == UUID("4f3d688d-a9df-5f0a-a9a3-9ed816f54c7f")
    assert ids.finding_id(event) == UUID("fb2b48b3-6aab-55f0-aaca-a023e6605ddc")
    assert ids.pair_id(ids.finding_id(event), 1) == UUID("3d3af4e8-2aba-5322-9302-fff16e8d6185")
    assert ids.event_id_from_producer("acme", "app", "t:s", 0) == UUID("4dcacb02-3839-56dc-8691-7243749ecb86")
    assert ids.event_id_from_log("cluster", "llm.events", 1, 2, 3, 0) == UUID(
        "7735bec8-eef7-599d-94d1-357c6225f2f9"
    )
    assert ids.dead_letter_id("llm.events", 1, 2, 3, 0) == UUID("8633b359-0b9e-5c4d-8988-46c7f1781c49")
    assert ids.guard_id("model", "weights", "template", "greedy") == "9d7ff94ca701f4e0"
    assert ids.content_hash("question", "answer").hex() == "07e4e3bc73b3a0b721d38da0a4d68066"


def test_the_source_is_no_part_of_a_response_identity() -> None:
    # Span, log event and route report one call from three sources: tenant, response and choice decide.
    assert ids.event_id_from_response(None, "r", 0) == ids.event_id_from_response("", "r", 0)
    assert ids.event_id_from_response("a", "r", 0) != ids.event_id_from_response("b", "r", 0)
    assert ids.event_id_from_response("a", "r", 0) != ids.event_id_from_response("a", "r", 1)


@given(st.tuples(names, names, names), st.tuples(names, names, names))
def test_two_producers_never_meet(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    same = ids.event_id_from_producer(*one, 0) == ids.event_id_from_producer(*other, 0)
    assert same == (one == other)


@given(names, st.integers(0, 9))
def test_the_kinds_of_identity_never_meet(name: str, number: int) -> None:
    made = {
        ids.event_id_from_response(name, name, number),
        ids.event_id_from_producer(name, name, name, number),
        ids.event_id_from_log(name, name, 1, 0, number, 0),
        ids.dead_letter_id(name, 1, 0, number, 0),
    }
    assert len(made) == 4


def test_a_topic_made_anew_is_another_log() -> None:
    first = ids.event_id_from_log("c", "t", 1, 0, 7, 0)
    assert first != ids.event_id_from_log("c", "t", 2, 0, 7, 0)
    assert first != ids.event_id_from_log("d", "t", 1, 0, 7, 0)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_another_text_is_another_content(question: str, answer: str, question2: str, answer2: str) -> None:
    if "\x1f" in question + question2:
        return
    same = ids.content_hash(question, answer) == ids.content_hash(question2, answer2)
    assert same == ((question, answer) == (question2, answer2))


def test_a_collision_gets_its_own_lasting_id() -> None:
    event = ids.event_id_from_response("a", "r", 0)
    content = ids.content_hash("q", "a")
    assert ids.collided_event_id(event, content) == ids.collided_event_id(event, content)
    assert ids.collided_event_id(event, content) not in {event, ids.finding_id(event)}


def test_a_lone_surrogate_has_a_content_hash() -> None:
    assert len(ids.content_hash("\ud800", "\udfff")) == 16


def test_the_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(dt.datetime(2026, 11, 21, tzinfo=dt.UTC))
    before = (clock.now(), clock.monotonic())
    assert (clock.now(), clock.monotonic()) == before
    clock.advance(1.5)
    assert clock.now() - before[0] == dt.timedelta(seconds=1.5)
    assert clock.monotonic() - before[1] == 1.5


def test_the_system_clock_knows_its_zone() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is dt.UTC
    assert clock.monotonic() <= clock.monotonic()
