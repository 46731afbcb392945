"""Streams in pieces become the body that a call without streaming would have had."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sentinel.chunks import assembled, data_of

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda held: (
        st.lists(held, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "index",
                    "text",
                    "tool_calls",
                    "function",
                    "name",
                    "type",
                    "response",
                    "output",
                ]
            ),
            held,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def chunk(index: Any, delta: Any, **more: Any) -> dict[str, Any]:
    return {"id": "r", "model": "m", "choices": [{"index": index, "delta": delta, **more}]}


def test_lines_that_are_no_data_are_passed_over() -> None:
    stream = b': comment\nevent: x\ndata: {"a": 1}\n\ndata:{"b": 2}\r\ndata: [DONE]\ndata: 3\ndata: {"cut'
    assert list(data_of(stream)) == [{"a": 1}, {"b": 2}]


def test_choices_keep_their_own_text_in_any_order() -> None:
    body = assembled(
        [chunk(1, {"content": "B"}), chunk(0, {"role": "assistant", "content": "A"}), chunk(1, {"content": "b"}),
         chunk(0, {}, finish_reason="stop"), {"id": "r", "choices": [], "usage": {"prompt_tokens": 2}}]
    )  # fmt: skip
    assert body == {
        "id": "r",
        "model": "m",
        "usage": {"prompt_tokens": 2},
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "Bb"}},
        ],
    }


def test_completions_have_texts() -> None:
    pieces = [{"choices": [{"index": 0, "text": "one "}]}, {"choices": [{"index": 0, "text": "two"}]}]
    assert assembled(pieces) == {"choices": [{"index": 0, "text": "one two"}]}


def calls_of(*deltas: dict[str, Any]) -> list[tuple[str | None, str, str]]:
    body = assembled(chunk(0, {"tool_calls": [delta]}) for delta in deltas)
    calls = body["choices"][0]["message"]["tool_calls"]
    return [(call.get("id"), call["function"]["name"], call["function"]["arguments"]) for call in calls]


def test_tool_calls_are_told_apart_by_index_else_by_id() -> None:
    one = {"id": "a", "function": {"name": "f", "arguments": "{"}}
    rest = {"function": {"arguments": "}"}}
    other = {"id": "b", "function": {"name": "g", "arguments": "{}"}}
    wanted = [("a", "f", "{}"), ("b", "g", "{}")]
    assert calls_of({"index": 0, **one}, {"index": 1, **other}, {"index": 0, **rest}) == wanted
    assert calls_of(one, rest, other) == wanted
    # A number far away makes one call, not a million.
    assert calls_of({"index": 10**6, **other}) == [("b", "g", "{}")]


@given(st.lists(ANYTHING, max_size=6))
def test_nothing_breaks_it(chunks: list[Any]) -> None:
    body = assembled(chunks)
    assert isinstance(body, dict)
    json.dumps(body)


def test_a_responses_stream_is_put_together_also_when_it_was_left() -> None:
    head = b'data: {"type":"response.created","response":{"id":"r","output":[]}}\n\n'
    deltas = b"".join(
        b'data: {"type":"response.output_text.delta","delta":"%s"}\n\n' % word for word in (b"two ", b"words")
    )
    text = [{"type": "output_text", "text": "two words"}]
    left = assembled(data_of(head + deltas))
    assert left["output"] == [{"type": "message", "role": "assistant", "content": text}]
    end = b'data: {"type":"response.completed","response":{"id":"r","output":[{"type":"message"}]}}\n\n'
    assert assembled(data_of(head + deltas + end))["output"] == [{"type": "message"}]
