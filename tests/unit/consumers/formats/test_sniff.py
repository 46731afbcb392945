"""Which format a record has: headers before the topic's setting, the setting before the keys."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from consumers.formats import TOPIC_FORMATS
from consumers.formats.sniff import content_type
from sentinel.errors import PoisonError
from sentinel.settings.stream import TopicFormat
from tests.unit.consumers.formats.by_hand import decoded, only, reasons
from tests.unit.consumers.formats.examples import load

NATIVE: dict[str, Any] = {"prompt": "Q", "response": "A"}
PROTOBUF = load("otel_openai_v2/new_plain.traces.bin").value


def test_the_settings_know_the_same_formats() -> None:
    assert set(get_args(TopicFormat)) == TOPIC_FORMATS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/json", "application/json"),
        (b"Application/JSON ; charset=utf-8", "application/json"),
        (b"", ""),
        (b"\xff", "ÿ"),
        (None, ""),
    ],
)
def test_media_types_without_parameters(value: bytes | None, expected: str) -> None:
    for key in ("content-type", "Content-Type", "contentType"):
        assert content_type((("x", b"y"), (key, value))) == expected


def test_the_header_comes_before_the_setting() -> None:
    for setting in sorted(TOPIC_FORMATS - {"cloudevents"}):
        assert only(PROTOBUF, (("content-type", b"application/x-protobuf"),), setting).format == "otlp-span"


@pytest.mark.parametrize("setting", sorted(TOPIC_FORMATS - {"native"}))
def test_the_setting_comes_before_the_keys(setting: str) -> None:
    with pytest.raises(PoisonError) as caught:
        decoded(NATIVE, (), setting)
    assert caught.value.reason in {"missing_field", "unknown_schema"}


def test_a_header_that_says_only_json_leaves_it_to_the_keys() -> None:
    json_header = (("content-type", b"application/json"),)
    for name in (
        "native/plain.json",
        "litellm/plain.json",
        "openai_pair/plain.json",
        "vercel_ai/plain.traces.json",
    ):
        value = load(name).value
        assert decoded(value, json_header) == decoded(value)


def test_one_record_may_mix_formats() -> None:
    mixed = [
        NATIVE,
        *(json.loads(load(n).value) for n in ("litellm/failed.json", "openai_pair/two_choices.json")),
        {"x": 1},
    ]
    assert reasons(mixed) == ["event", "failed_call", "event", "event", "unknown_schema"]


def test_protobuf_without_a_header_needs_no_setting() -> None:
    assert only(PROTOBUF) == only(PROTOBUF, (), "otlp_proto") == only(PROTOBUF, (), "otlp")


@pytest.mark.parametrize("setting", ["otlp", "otlp_proto"])
def test_a_topic_of_protobuf_names_broken_protobuf(setting: str) -> None:
    with pytest.raises(PoisonError) as caught:
        decoded(b"\x08\x96\x01", (), setting)
    assert caught.value.reason == "invalid_protobuf"
