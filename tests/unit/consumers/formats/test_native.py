"""The product's own JSON: required keys, liberties, what is kept, and one result on both ways through."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.formats import decode
from consumers.formats.drafts import items_of, user_ref
from consumers.formats.fields import MAX_NAME
from consumers.formats.native_fast import fast
from consumers.formats.sniff import read
from sentinel import ids
from sentinel.errors import PoisonError
from sentinel.events import Ignored, Item, Message, Origin, PromptEvent
from tests.unit.consumers.formats.by_hand import decoded, only, reasons
from tests.unit.consumers.formats.examples import record

LEAST: dict[str, Any] = {"prompt": "Q", "response": "A"}


def test_every_key_lands_where_it_belongs() -> None:
    event = only(
        {
            "id": "e-1", "time": "2026-02-02T03:04:05.5+01:00", "source": "bot", "tenant": "acme", "model": "m",
            "provider": "vllm", "user": "u-1", "conversation_id": "c-1", "finish_reason": "stop",
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], "response": "A",
            "usage": {"input_tokens": 3, "output_tokens": 4}, "served_by": "adapter-1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }
    )  # fmt: skip
    assert event == PromptEvent(
        event_id=ids.event_id_from_producer("acme", "bot", "e-1", 0),
        origin=Origin("llm.events", 1, 3, 7),
        identified=True,
        format="native",
        messages=(Message("system", "S"), Message("user", "Q")),
        response="A",
        received_ms=1_770_000_000_000,
        event_time=dt.datetime(2026, 2, 2, 2, 4, 5, 500_000, tzinfo=dt.UTC),
        source="bot",
        tenant="acme",
        model="m",
        provider="vllm",
        user_ref=user_ref("acme", "u-1"),
        conversation_id="c-1",
        finish_reason="stop",
        input_tokens=3,
        output_tokens=4,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        served_by="adapter-1",
    )
    assert event.event_time is not None
    assert event.event_time.tzinfo is dt.UTC


def test_the_users_id_is_not_kept() -> None:
    one, other = only({**LEAST, "user": "u-1"}), only({**LEAST, "user": "u-1", "tenant": "acme"})
    assert one.user_ref is not None
    assert "u-1" not in one.user_ref
    assert one.user_ref != other.user_ref


def test_without_an_id_the_position_is_the_identity() -> None:
    raw = json.dumps(LEAST).encode()
    (one,), (other,) = decode(record(raw, offset=1)), decode(record(raw, offset=2))
    assert isinstance(one, PromptEvent)
    assert isinstance(other, PromptEvent)
    assert not one.identified
    assert one.event_id != other.event_id
    assert one.event_id == ids.event_id_from_log("cluster", "llm.events", 1, 3, 1, 0)


def test_a_response_id_comes_before_the_producers_id() -> None:
    event = only({**LEAST, "id": "e-1", "response_id": "r-1", "choice": 2, "tenant": "acme", "source": "x"})
    assert event.event_id == ids.event_id_from_response("acme", "r-1", 2)


def test_unknown_keys_and_verdicts_are_kept() -> None:
    event = only({**LEAST, "experiment": {"arm": ["b", 1, None]}, "verdicts": [{"label": "safe"}, "noise"]})
    assert event.attrs == {"experiment": {"arm": ["b", 1, None]}}
    assert event.client_verdicts == ({"label": "safe"},)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"messages": [{"role": "user", "content": "Q"}]}, "missing_field"),
        ({"response": "A"}, "missing_field"),
        ({"prompt": "Q", "response": None}, "missing_field"),
        ({"messages": [], "response": "A"}, "missing_field"),
        ({"messages": [{"role": "user", "content": ""}], "response": "A"}, "missing_field"),
        ({"prompt": "Q", "response": 4}, "invalid_field"),
        ({"prompt": "Q", "response": {"text": "A"}}, "invalid_field"),
        ({"prompt": 4, "response": "A"}, "invalid_field"),
        ({"messages": "Q", "response": "A"}, "invalid_field"),
        ({"messages": ["Q"], "response": "A"}, "invalid_field"),
        ({"question": "Q"}, "unknown_schema"),
        ({}, "unknown_schema"),
        ([1, 2], "unknown_schema"),
        ("text", "unknown_schema"),
        (4, "unknown_schema"),
    ],
)
def test_what_cannot_be_read_is_poison(value: Any, reason: str) -> None:
    raw = json.dumps([value] if isinstance(value, int) else value).encode()
    if isinstance(value, list):
        assert reasons(raw) == [reason] * len(value)
        return
    with pytest.raises(PoisonError) as caught:
        decode(record(raw))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"hello", "invalid_json"),
        (b'{"prompt": "Q", "response": "A"} trailing', "invalid_json"),
        (b'{"prompt": "\xff", "response": "A"}', "invalid_encoding"),
        (b'{"prompt": "Q", "response": "\\ud800"}', "invalid_json"),
        (b"[" * 5000 + b"]" * 5000, "too_deep"),
        (b'{"prompt": "Q", "response": "A", "x": ' + b"[" * 200 + b"]" * 200 + b"}", "too_deep"),
        (b'{"prompt": "Q", "response": "A", "x": ' + b'{"a":' * 900 + b"1" + b"}" * 901, "too_deep"),
    ],
)
def test_bytes_that_are_poison(raw: bytes, reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        decode(record(raw))
    assert caught.value.reason == reason


def test_details_of_poison_hold_no_text() -> None:
    with pytest.raises(PoisonError) as caught:
        decode(record(b'{"prompt": "my secret", "response": 7}'))
    assert "secret" not in str(caught.value)


def test_a_tombstone_is_ignored() -> None:
    assert decode(record(None)) == [Ignored(Origin("llm.events", 1, 3, 7), "tombstone")]


def test_an_empty_answer_is_an_event() -> None:
    assert only({"prompt": "Q", "response": ""}).response == ""
    assert only({"prompt": "Q", "response": []}).response == ""


def test_placeholders_are_redacted() -> None:
    assert reasons({"prompt": "Q", "response": "__REDACTED__"}) == ["redacted"]
    assert reasons({"prompt": "FILTERED", "response": "A"}) == ["redacted"]
    turns = [{"role": "system", "content": "FILTERED"}, {"role": "user", "content": "Q"}]
    assert reasons({"messages": turns, "response": "A"}) == ["event"]


@pytest.mark.parametrize("key", ["x-sentinel-origin", "X-Sentinel-Origin", "x_sentinel_origin"])
def test_own_traffic_is_ignored_wherever_the_marker_is(key: str) -> None:
    assert reasons({**LEAST, key: "guard"}) == ["own_traffic"]
    assert reasons({**LEAST, "metadata": {key: "reprompt"}}) == ["own_traffic"]
    assert reasons(LEAST, ((key, b"guard"),)) == ["own_traffic"]


def test_nul_becomes_a_replacement_character_and_is_flagged() -> None:
    event = only(
        {
            "messages": [{"role": "us\x00er", "content": "Q\x00"}], "response": "A\x00B", "model": "m\x00",
            "x\x00": ["\x00", {"\x00": "\x00"}], "verdicts": [{"note": "\x00"}],
        }
    )  # fmt: skip
    assert event.nul_replaced
    assert event.response == "A\ufffdB"
    assert event.messages == (Message("us\ufffder", "Q\ufffd"),)
    assert "\x00" not in json.dumps(event.attrs) + str(event.client_verdicts) + str(event.model)
    assert not only(LEAST).nul_replaced


def test_an_escaped_backslash_is_no_nul() -> None:
    event = only(b'{"prompt": "Q", "response": "\\\\u0000"}')
    assert event.response == "\\u0000"
    assert not event.nul_replaced


@pytest.mark.parametrize(
    ("given_time", "meant"),
    [
        ("2026-02-02T03:04:05Z", "2026-02-02T03:04:05+00:00"),
        ("2026-02-02t03:04:05z", "2026-02-02T03:04:05+00:00"),
        ("2026-02-02 03:04:05", "2026-02-02T03:04:05+00:00"),
        ("2026-02-02T03:04:05.123456789-02:30", "2026-02-02T05:34:05.123457+00:00"),
        ("2026-02-02T03:04:05 +0100", "2026-02-02T02:04:05+00:00"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59+00:00"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"),
        (1_770_000_000, "2026-02-02T02:40:00+00:00"),
        (1_770_000_000_000, "2026-02-02T02:40:00+00:00"),
        (1_770_000_000.5, "2026-02-02T02:40:00.500000+00:00"),
    ],
)
def test_times_with_the_usual_liberties(given_time: Any, meant: str) -> None:
    event = only({**LEAST, "time": given_time})
    assert event.event_time is not None
    assert event.event_time.isoformat() == meant
    assert event.attrs == {}


@pytest.mark.parametrize(
    "odd", ["yesterday", "0001-01-01T00:00:00+14:00", "2026-13-01T00:00:00Z", 1e300, -5, True, {}]
)
def test_a_time_that_nobody_can_read_is_kept_as_data(odd: Any) -> None:
    event = only({**LEAST, "time": odd})
    assert event.event_time is None
    assert event.attrs == {"time": odd}


def test_parts_reasoning_calls_and_pictures() -> None:
    event = only(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]},
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "42"},
            ],
            "response": [
                {"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "A"},
                {"type": "file", "id": "f-1"},
                {"type": "refusal", "refusal": "no"}, {"type": "tool_use", "name": "g", "input": {"x": 1}},
            ],
        }
    )  # fmt: skip
    assert [m.text for m in event.messages] == ["look", "f {}", "42"]
    assert (event.response, event.response_extra) == ("A\nno", 'hm\ng {"x":1}')
    assert event.unscanned_parts == 2


def test_long_names_are_cut_and_the_identity_is_not() -> None:
    long = "n" * 2 * MAX_NAME
    one, other = only({**LEAST, "response_id": long + "1"}), only({**LEAST, "response_id": long + "2"})
    assert one.response_id == other.response_id == "n" * MAX_NAME
    assert one.event_id != other.event_id


def test_lines_and_lists_of_events_are_many_items() -> None:
    one, other = json.dumps(LEAST).encode(), json.dumps({**LEAST, "id": "2"}).encode()
    assert reasons(one + b"\n" + other + b"\n") == ["event", "event"]
    assert reasons(b"[" + one + b"," + other + b', {"x": 1}]') == ["event", "event", "unknown_schema"]
    assert reasons(one + b"\nbroken\n" + other) == ["event", "invalid_json", "event"]


def test_a_byte_order_mark_is_no_poison() -> None:
    assert only(b"\xef\xbb\xbf" + json.dumps(LEAST).encode()).response == "A"


_names = st.none() | st.text(max_size=6)
_turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "", "x" * 70]), "content": st.text(max_size=9)}
)
_zones = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5))]) | st.none()
_counts = st.none() | st.integers()
_events = st.fixed_dictionaries(
    {"response": st.text(max_size=20)},
    optional={
        "messages": st.lists(_turns, max_size=3),
        "prompt": st.text(max_size=9),
        "id": _names, "source": _names, "tenant": _names, "model": _names, "user": _names, "conversation_id": _names,
        "finish_reason": _names, "response_id": _names, "served_by": _names,
        "choice": st.integers(-1, 40_000),
        "usage": st.fixed_dictionaries({}, optional={"input_tokens": _counts, "output_tokens": _counts}),
        "time": st.datetimes(timezones=_zones).map(dt.datetime.isoformat),
        "verdicts": st.none() | st.lists(st.dictionaries(st.text(max_size=3), _names, max_size=2) | _names, max_size=2),
        "experiment": st.none() | st.lists(st.integers(0, 9) | st.text(max_size=4), max_size=2),
        "metadata": st.dictionaries(st.sampled_from(["a", "x-sentinel-origin"]), _names, max_size=2),
        "call_type": st.none(), "gen_ai.system": _names, "request": st.just({}),
        "traceparent": _names | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    },
)  # fmt: skip


@given(_events)
def test_both_ways_through_give_the_same_event(event: dict[str, Any]) -> None:
    raw = json.dumps(event).encode()
    quick = fast(record(raw), raw)
    if quick is None:
        return
    assert items_of(record(raw), read(raw, "", None)) == [quick]


def test_the_short_cut_is_taken_by_plain_events() -> None:
    for more in (
        {},
        {"experiment": {"arm": "b"}, "verdicts": [{"label": "safe"}], "usage": {"total_tokens": 3}},
    ):
        raw = json.dumps({**LEAST, **more}).encode()
        assert fast(record(raw), raw) is not None


@given(_events)
def test_round_trip(event: dict[str, Any]) -> None:
    """What an event says can be written as an event again, with the same result."""
    items: list[Item] = []
    with contextlib.suppress(PoisonError):
        items = decoded(event)
    for item in items:
        if isinstance(item, PromptEvent) and item.identified and not item.nul_replaced:
            written = {
                "messages": [{"role": m.role, "content": m.text} for m in item.messages],
                "time": item.event_time and item.event_time.isoformat(),
                "id": event.get("id"),
            }
            for key in ("response", "tenant", "source", "response_id", "choice", "model"):
                written[key] = getattr(item, key)
            again = only(written)
            assert (again.event_id, again.messages, again.response, again.model, again.event_time) == (
                item.event_id, item.messages, item.response, item.model, item.event_time,
            )  # fmt: skip
