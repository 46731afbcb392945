"""Whatever arrives, decoding ends: with items or with PoisonError, in bounded time, without U+0000.

The reasons are from the closed list, items count from 0, and what comes out can be written to the store.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.formats import TOPIC_FORMATS, decode
from consumers.formats.drafts import MAX_CHOICE
from consumers.formats.fields import MAX_NAME
from sentinel.errors import PoisonError
from sentinel.events import Headers, Ignored, Item, PromptEvent
from sentinel.outcomes import DEAD_LETTER_REASONS, IGNORED_REASONS
from tests.unit.consumers.formats.by_hand import log, logs, span, spans
from tests.unit.consumers.formats.examples import NAMES, load, record

TIME_LIMIT = 2.0
"""Seconds of one decode; these inputs take milliseconds, and a quadratic parser minutes."""

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MORE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

formats = st.none() | st.sampled_from(sorted(TOPIC_FORMATS))
media = st.sampled_from(
    [b"application/json", b"application/x-protobuf", b"application/cloudevents+json", b"\x00\xff", b"", None]
)
headers_of = st.lists(
    st.tuples(
        st.sampled_from(
            ["content-type", "ce_specversion", "ce_id", "ce_type", "ce_time", "x-sentinel-origin", "ce_", ""]
        ),
        media | st.binary(max_size=6),
    ),
    max_size=4,
).map(tuple)

KEYS = (
    "response", "messages", "prompt", "id", "time", "usage", "verdicts", "role", "content", "parts", "type", "text",
    "tool_calls", "function", "arguments", "name", "request", "choices", "message", "output", "input", "delta", "index",
    "call_type", "litellm_call_id", "metadata", "specversion", "data", "data_base64", "source", "resourceSpans",
    "scopeSpans", "spans", "attributes", "key", "value", "stringValue", "resourceLogs", "scopeLogs", "logRecords",
    "body",
    "gen_ai.operation.name", "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.prompt.0.content", "refusal",
    "reasoning", "audio", "candidates", "instructions", "n", "status", "error", "summary", "\x00",
)  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.just("\x00")
)
values = st.recursive(
    scalars | st.sampled_from(["chat", "user", "text", "[]", "{}", '[{"role": "user"}]', "1.0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=24,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=8)


def checked(value: bytes | None, headers: Headers = (), topic_format: str | None = None) -> list[Item]:
    """Decode and hold to everything that is promised of any input; no items where it is poison."""
    began = time.process_time()
    try:
        items = decode(record(value, headers), topic_format)
    except PoisonError as error:
        items = []
        reason = error.reason
    else:
        reason = "invalid_json"
    assert time.process_time() - began < TIME_LIMIT
    assert reason in DEAD_LETTER_REASONS
    assert [item.origin.item for item in items] == list(range(len(items)))
    for item in items:
        if isinstance(item, PromptEvent):
            _storable(item)
        elif isinstance(item, Ignored):
            assert item.reason in IGNORED_REASONS
        else:
            assert item.reason in DEAD_LETTER_REASONS
    return items


def _storable(event: PromptEvent) -> None:
    texts = [event.response, event.response_extra, *(t for m in event.messages for t in (m.role, m.text))]
    names = [
        event.source, event.tenant, event.model, event.provider, event.user_ref, event.conversation_id,
        event.response_id, event.finish_reason, event.trace_id, event.span_id, event.served_by,
    ]  # fmt: skip
    trees = orjson.dumps([event.attrs, event.client_verdicts]).decode()
    for text in (*texts, *(name for name in names if name is not None), trees):
        assert "\x00" not in text
        text.encode()
    assert "\\u0000" not in trees.replace("\\\\", "")
    assert all(0 < len(name) <= MAX_NAME for name in names if name is not None)
    assert 0 <= event.choice <= MAX_CHOICE
    assert all(n is None or 0 <= n < 2**31 for n in (event.input_tokens, event.output_tokens))
    assert event.event_time is None or event.event_time.utcoffset() is not None


@MORE
@given(st.binary(max_size=200), headers_of, formats)
def test_random_bytes(value: bytes, headers: Headers, topic_format: str | None) -> None:
    checked(value, headers, topic_format)


@MORE
@given(objects | st.lists(objects, max_size=3) | values, headers_of, formats)
def test_random_json(value: Any, headers: Headers, topic_format: str | None) -> None:
    checked(json.dumps(value).encode(), headers, topic_format)


@MORE
@given(
    st.dictionaries(st.sampled_from(KEYS), values, max_size=6),
    st.sampled_from(["native", "openai", "litellm"]),
)
def test_random_values_under_the_right_keys(more: dict[str, Any], shape: str) -> None:
    least: dict[str, dict[str, Any]] = {
        "native": {"prompt": "Q", "response": "A"},
        "openai": {
            "request": {"messages": [more]},
            "response": {"choices": [{"message": more}], "output": [more]},
        },
        "litellm": {
            "call_type": "completion",
            "custom_llm_provider": "x",
            "messages": [more],
            "response": {"choices": [more]},
        },
    }
    checked(json.dumps({**least[shape], **more}).encode(), (), shape)
    checked(json.dumps({**more, **least[shape]}).encode())


ATTRIBUTES = (
    "gen_ai.operation.name", "gen_ai.completion.0.tool_calls.0.name", "gen_ai.completion.1.content", "output.value",
    "llm.output_messages.0.message.contents.0.message_content.text", "openinference.span.kind", "ai.operationId",
    "ai.response.toolCalls", "langfuse.observation.output", "langfuse.observation.type", "ai.prompt.messages",
    "gen_ai.response.finish_reasons", "gen_ai.system_instructions", "input.value", *KEYS[-20:],
)  # fmt: skip


@MORE
@given(st.dictionaries(st.sampled_from(ATTRIBUTES), values, max_size=6), values)
def test_random_attributes(attributes: dict[str, Any], body: Any) -> None:
    held = {"gen_ai.request.model": "m", **attributes}
    encoded = {
        key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in held.items()
    }
    for kept in (held, encoded):
        checked(spans(span(kept, events=[{"name": "gen_ai.choice", "attributes": []}])))
        checked(
            logs(
                log("gen_ai.choice", kept, body={"stringValue": json.dumps(body)}), log("gen_ai.user.message")
            )
        )
        checked(logs(log("gen_ai.client.inference.operation.details", kept)))


@pytest.mark.parametrize("name", NAMES)
def test_changed_examples(name: str) -> None:
    example = load(name)
    original = gzip.decompress(example.value) if example.value[:2] == b"\x1f\x8b" else example.value

    @FEW
    @given(st.data())
    def change(data: st.DataObject) -> None:
        raw = bytearray(original)
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, len(raw) - 1))
            match data.draw(st.integers(0, 3)):
                case 0:
                    raw[at] = data.draw(st.integers(0, 255))
                case 1:
                    del raw[at : at + data.draw(st.integers(1, 40))]
                case 2:
                    raw[at:at] = data.draw(st.binary(max_size=6) | st.just(b"\\u0000") | st.just(b"null"))
                case _:
                    raw[at:at] = raw[: data.draw(st.integers(0, 60))]
            if not raw:
                break
        checked(bytes(raw), example.headers if data.draw(st.booleans()) else ())

    change()


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt":"Q","response":"A","x":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"prompt":"Q","response":' + b'[{"content":' * 400 + b'"x"' + b"}]" * 400 + b"}",
        b'{"request":{"messages":' + b"[" * 900 + b"]" * 900 + b'},"response":{"choices":[{"text":"A"}]}}',
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":' * 300 + b"1" + b"}" * 300,
        b"[" * 900 + b'{"prompt":"Q","response":"A"}' + b"]" * 900,
        b"\n" * 300_000,
        b"{}\n" * 50_000,
        b"1\n" * 200_000,
        b'{"prompt":"' + b"\\u0000" * 200_000 + b'","response":"A"}',
        b'{"prompt":"Q","response":"' + b"[{" * 200_000 + b'"}',
        b'{"prompt":"Q","response":"A","time":"' + b"2" * 500_000 + b'"}',
        b'{"prompt":"Q","response":"A","id":' + b"9" * 100_000 + b"}",
        json.dumps({"request": {"prompt": ["Q"] * 5000}, "response": {"choices": [{"text": "A"}] * 5000}}).encode(),
        json.dumps({"request": {"messages": []}, "response": [
            {"choices": [{"index": n, "delta": {"content": "x"}}]} for n in range(9000)
        ]}).encode(),
        spans(span({f"gen_ai.completion.{n}.content": "A" for n in range(20_000)})),
        spans(span({"gen_ai.operation.name": "chat", "gen_ai.output.messages": "[" * 100_000})),
        gzip.compress(gzip.compress(b" " * 1_000_000)),
    ],
    ids=range(19),
)  # fmt: skip
def test_inputs_made_to_take_long(value: bytes) -> None:
    checked(value)
    checked(value, (("content-type", b"application/x-protobuf"),))


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".json")])
def test_nul_in_every_text_of_an_example(name: str) -> None:
    """U+0000 in place of each full stop and comma of the texts, escaped once and, in JSON inside JSON, twice."""
    example = load(name)
    for escape in (b"\\u0000", b"\\\\u0000"):
        for mark in (b". ", b".", b"?", b"one"):
            checked(example.value.replace(mark + b'"', escape + b'"'), example.headers)
            checked(example.value.replace(mark + b'\\"', escape + b'\\"'), example.headers)
