"""CloudEvents: what headers, labels and envelopes do in the wild."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from consumers.formats import decode
from sentinel import ids
from sentinel.errors import PoisonError
from sentinel.events import Headers, Ignored, PromptEvent
from tests.unit.consumers.formats.by_hand import decoded, only, reasons
from tests.unit.consumers.formats.examples import load, record

DATA: dict[str, Any] = {"prompt": "Q", "response": "A"}
ENVELOPE: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/bot", "type": "llm", "data": DATA}
BINARY: Headers = (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/bot"), ("ce_type", b"llm"))


def test_binary_and_structured_mode_are_the_same_event() -> None:
    binary, structured = only(DATA, BINARY), only(ENVELOPE)
    assert binary == structured
    assert binary.event_id == ids.event_id_from_producer(None, "/bot", "1", 0)


def test_the_envelope_fills_what_the_data_lacks() -> None:
    more = {"subject": "c-1", "time": "2026-02-02T03:04:05Z", "tenant": "acme"}
    event = only({**ENVELOPE, **more})
    assert (event.conversation_id, event.tenant, event.source) == ("c-1", "acme", "/bot")
    own = only(
        {**ENVELOPE, **more, "data": {**DATA, "conversation_id": "mine", "id": "own", "source": "app"}}
    )
    assert (own.conversation_id, own.source) == ("mine", "app")
    assert own.event_id == ids.event_id_from_producer("acme", "app", "own", 0)


def test_several_items_of_one_envelope_do_not_share_its_id() -> None:
    pair = {
        "request": {"messages": [{"role": "user", "content": "Q"}]},
        "response": {"choices": [{"message": {"role": "assistant", "content": "A"}}]},
    }
    items = decoded({**ENVELOPE, "data": [pair, pair]})
    assert len({item.event_id for item in items if isinstance(item, PromptEvent)}) == 2


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"application/json; charset=utf-8", b"application/x-protobuf", b"text/plain",
     b"application/cloudevents+json; charset=UTF-8", b"\xff\xfe", None],
)  # fmt: skip
def test_an_envelope_is_recognised_by_its_keys_whatever_its_label(content_type: bytes | None) -> None:
    assert only(ENVELOPE, (("content-type", content_type),)) == only(ENVELOPE)


def test_null_valued_headers_are_absent_ones() -> None:
    event = only(DATA, (*BINARY, ("ce_subject", None), ("ce_time", None), ("content-type", None)))
    assert event.conversation_id is None
    assert only(DATA, (("ce_type", None), ("other", None))).format == "native"


@pytest.mark.parametrize("prefix", ["ce_", "ce-", "CE_", "Ce-"])
def test_header_names_of_both_bindings(prefix: str) -> None:
    headers = tuple((prefix + key[3:], value) for key, value in BINARY)
    assert only(DATA, headers).event_id == only(DATA, BINARY).event_id


def test_data_as_text_and_as_base64() -> None:
    raw = json.dumps(DATA)
    bare = {key: value for key, value in ENVELOPE.items() if key != "data"}
    for held in ({"data": raw}, {"data_base64": base64.b64encode(raw.encode()).decode()}):
        assert only({**bare, **held}).response == "A"


def test_protobuf_inside_envelopes() -> None:
    example = load("otel_openai_v2/new_two_choices.traces.bin")
    plain = decode(record(example.value))
    binary = (*BINARY, ("content-type", b"application/x-protobuf"))
    bare = {key: value for key, value in ENVELOPE.items() if key != "data"}
    structured = json.dumps({**bare, "data_base64": base64.b64encode(example.value).decode()}).encode()
    for items in (decode(record(example.value, binary)), decode(record(structured))):
        assert [i.event_id for i in items if isinstance(i, PromptEvent)] == [
            i.event_id for i in plain if isinstance(i, PromptEvent)
        ]


def test_a_batch_is_many_items() -> None:
    assert reasons([ENVELOPE, {**ENVELOPE, "id": "2"}, {**ENVELOPE, "id": ""}]) == [
        "event",
        "event",
        "missing_field",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "missing_field"),
        ({"source": ""}, "missing_field"),
        ({"data": None}, "missing_field"),
        ({"data": "just text"}, "unknown_schema"),
        ({"data": {"x": 1}}, "unknown_schema"),
        ({"data": None, "data_base64": "###"}, "invalid_encoding"),
        ({"data": None, "data_base64": 4}, "invalid_field"),
    ],
)
def test_envelopes_that_are_poison(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        decoded({**ENVELOPE, **change})
    assert caught.value.reason == reason


def test_envelopes_in_envelopes_end() -> None:
    nested = ENVELOPE
    for _ in range(10):
        nested = {**ENVELOPE, "data": nested}
    with pytest.raises(PoisonError) as caught:
        decoded(nested)
    assert caught.value.reason == "too_deep"


def test_the_topics_setting_is_about_what_the_envelope_holds() -> None:
    for setting in ("cloudevents", "native", None):
        assert only(ENVELOPE, (), setting).response == "A"
        assert only(DATA, BINARY, setting).response == "A"
    with pytest.raises(PoisonError):
        decoded(DATA, (), "cloudevents")
    with pytest.raises(PoisonError):
        decoded(ENVELOPE, (), "litellm")


def test_headers_of_a_binary_event_are_not_trusted_with_a_tombstone() -> None:
    assert isinstance(decode(record(None, BINARY))[0], Ignored)


def test_header_bytes_that_are_no_text_do_not_poison() -> None:
    event = only(DATA, (*BINARY, ("ce_subject", b"\xff\x00\xfe")))
    assert event.conversation_id == "\ufffd\ufffd\ufffd"
    assert event.nul_replaced
