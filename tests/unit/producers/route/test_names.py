"""Model names in JSON bytes: where they are found, and that nothing else changes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.route.names import model_spans, replaced, restored, text_at

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["model", "response", "messages", "a", '"model"', "mod\\el", "x{", "y]"])


@given(
    st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3) | st.text(), max_size=5),
    st.text(min_size=1),
    st.booleans(),
)
def test_the_top_level_name_is_found_and_only_it_changes(
    body: dict[str, Any], new: str, ascii_: bool
) -> None:
    data = json.dumps(body, ensure_ascii=ascii_, indent=1 if ascii_ else None).encode(
        "utf-8", "surrogatepass"
    )
    spans = list(model_spans(data))
    if not isinstance(body.get("model"), str):
        assert spans == []
        return
    assert [text_at(data, span) for span in spans] == [body["model"]]
    changed = json.loads(replaced(data, spans, new))
    assert changed == {**body, "model": new}
    assert list(changed) == list(body)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, st.text() | st.none(), max_size=3), max_size=4))
def test_the_name_inside_a_response_event_is_found(body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    found = [text_at(data, span) for span in model_spans(data, in_response=True)]
    inner = body.get("response", {}).get("model")
    assert found == ([inner] if inner is not None else [])


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    for span in model_spans(data, in_response=True):
        text_at(data, span)
    assert restored(data, "old", "old") == data


def test_a_repeated_key_is_replaced_everywhere_and_the_last_counts() -> None:
    data = b'{"model":"a","x":1,"model":"b"}'
    spans = list(model_spans(data))
    assert [text_at(data, span) for span in spans] == ["a", "b"]
    assert replaced(data, spans, "c") == b'{"model":"c","x":1,"model":"c"}'


def test_a_name_after_a_long_conversation_is_found() -> None:
    turns = json.dumps([{"role": "user", "content": 'say "model" or {"model": "x"}'}] * 50).encode()
    for data in (
        b'{"messages":' + turns + b',"model":"a"}',
        b'{"model":"b","messages":' + turns + b',"model":"a"}',
    ):
        spans = list(model_spans(data))
        assert text_at(data, spans[-1]) == json.loads(data)["model"] == "a"


@pytest.mark.parametrize(
    "body",
    [
        b'[{"model":"old"}]',
        b'{"x":{"model":"old"}}',
        b'{"x":["model","old"]}',
        b'{"model":null}',
        b'"model"',
        b"",
    ],
)
def test_other_places_are_left_alone(body: bytes) -> None:
    assert restored(body, "old", "new") is body


def test_escapes_in_the_name_are_understood() -> None:
    assert restored(b'{"model":"o\\u006cd\\/x"}', "old/x", 'n"w') == b'{"model":"n\\"w"}'


def test_an_unclosed_string_costs_one_pass() -> None:
    data = b'{"x":"' + b"\\a" * 500_000
    began = time.process_time()
    assert list(model_spans(data)) == []
    assert time.process_time() - began < 1.0
