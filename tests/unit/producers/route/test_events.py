"""Calls as events: what our own decoder must find in them. Reading them back is tested with a broker."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from producers.route.events import Call, Kind, UnreadableCallError, events_of

AT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def call(kind: Kind, request: Any, answer: Any, *, streamed: bool = False) -> Call:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return Call(
        kind=kind, request=json.dumps(request).encode(), answer=body, streamed=streamed, model="assistant",
        served_by="adapter-1", at=AT, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )  # fmt: skip


def read(made: Call) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events_of(made)]


def test_a_chat_completion() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "Q"}]},
    ]
    answer = {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A", "refusal": None},
                     "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }  # fmt: skip
    (event,) = read(call("chat", {"messages": messages, "user": "u"}, answer))
    assert event == {
        "source": "sentinel-route",
        "time": "2026-01-02T03:04:05+00:00",
        "response_id": "chatcmpl-1",
        "model": "assistant",
        "served_by": "adapter-1",
        "user": "u",
        "usage": {"input_tokens": 3, "output_tokens": 4},
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "messages": messages,
        "response": "A",
        "choice": 0,
        "finish_reason": "stop",
    }


def test_reasoning_and_tools_stay_beside_the_text() -> None:
    message = {"role": "assistant", "content": "A", "reasoning_content": "R", "tool_calls": []}
    (event,) = read(call("chat", {"messages": []}, {"id": "1", "choices": [{"message": message}]}))
    assert event["response"] == {"role": "assistant", "content": "A", "reasoning_content": "R"}


def test_several_prompts_with_several_choices() -> None:
    choices = [{"index": number, "text": f"{'PQ'[number // 2]}{number}"} for number in range(4)]
    request = {"prompt": ["P", "Q"], "n": 2, "echo": True}
    events = read(call("completions", request, {"id": "1", "choices": choices}))
    assert [(e["prompt"], e["response"], e["choice"]) for e in events] == [
        ("P", "0", 0), ("P", "1", 1), ("Q", "2", 2), ("Q", "3", 3),
    ]  # fmt: skip


def test_the_responses_api() -> None:
    request = {
        "instructions": "S",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Q"}]},
            {"type": "function_call", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "output": "42"},
        ],
    }
    answer = {
        "id": "resp-1",
        "status": "completed",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "T"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
            {"type": "function_call", "name": "g", "arguments": "{1}"},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    (event,) = read(call("responses", request, answer))
    assert [turn["role"] for turn in event["messages"]] == ["system", "user", "assistant", "tool"]
    assert event["response"]["content"] == [{"type": "output_text", "text": "A"}]
    assert event["response"]["tool_calls"][0]["function"] == {"name": "g", "arguments": "{1}"}
    assert event["response"]["reasoning"] == [{"type": "summary_text", "text": "T"}]
    assert event["usage"] == {"input_tokens": 1, "output_tokens": 2}


@pytest.mark.parametrize(
    ("kind", "request_", "answer"),
    [
        ("chat", {"messages": []}, b"no JSON"),
        ("chat", {"messages": []}, []),
        ("chat", {}, {"choices": [{}]}),
        ("chat", {"messages": []}, {"error": {}}),
        ("chat", [], {"choices": []}),
        ("completions", {"prompt": [[1, 2]]}, {"choices": [{"text": "x"}]}),
        ("responses", {"input": 7}, {"output": []}),
    ],
)
def test_what_cannot_be_read_says_so(kind: Kind, request_: Any, answer: Any) -> None:
    with pytest.raises(UnreadableCallError):
        events_of(call(kind, request_, answer))
