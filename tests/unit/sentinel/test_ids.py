"""Identities: equal where the same thing is reported twice, different everywhere else, and frozen for ever."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from sentinel import ids
from sentinel.clock import ManualClock, SystemClock

# Whatever a producer may send, the separator of our names among it.
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.text(
    "a1\x1f", min_size=1, max_size=6
)


def test_ids_never_change() -> None:
    """A release that computes other ids stores every event again."""
    event = ids.event_id_from_response("acme", "chatcmpl-1", 0)
    assert event == UUID("f993064f-250a-57f5-a439-54b9fec0bade")
    assert ids.finding_id(event) == UUID("752da4ad-58d2-5a51-b492-f5a6be0b29a4")
    assert ids.pair_id(ids.finding_id(event), 1) == UUID("61f0dc66-3f50-5682-b932-01dd52afa11a")
    assert ids.event_id_from_producer("acme", "app", "t:s", 0) == UUID("150addf7-9703-5fe9-aad2-4c2c4a354065")
    assert ids.event_id_from_log("cluster", "llm.events", 1, 2, 3, 0) == UUID(
        "7735bec8-eef7-599d-94d1-357c6225f2f9"
    )
    assert ids.dead_letter_id("llm.events", 1, 2, 3, 0) == UUID("8633b359-0b9e-5c4d-8988-46c7f1781c49")
    assert ids.guard_id("model", "weights", "template", "greedy") == "9d7ff94ca701f4e0"
    assert ids.content_hash("question", "answer").hex() == "85dd52e91478ce4a35643493a18d7b44"


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
