"""A scripted completion as the event stream that OpenAI-compatible servers send for ``stream: true``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

DONE: Final = b"data: [DONE]\n\n"
_WORDS: Final = re.compile(r"\s*\S+|\s+$")


def events(completion: dict[str, Any], *, include_usage: bool) -> Iterator[bytes]:
    """The events of a chat completion or a completion, one for each word, its choices taking turns."""
    chat = completion["object"] == "chat.completion"
    head = {key: completion[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"

    def event(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        inner = {"delta": delta} if chat else {"text": delta.get("content", "")}
        choice = {"index": index, **inner, "logprobs": None, "finish_reason": finish}
        return _data({**head, "choices": [choice]})

    pieces: list[tuple[int, Iterator[dict[str, Any]]]] = []
    for choice in completion["choices"]:
        if chat:
            yield event(choice["index"], {"role": "assistant", "content": ""})
        pieces.append((choice["index"], _deltas(choice)))
    while pieces:
        left: list[tuple[int, Iterator[dict[str, Any]]]] = []
        for index, deltas in pieces:
            delta = next(deltas, None)
            if delta is not None:
                yield event(index, delta)
                left.append((index, deltas))
        pieces = left
    for choice in completion["choices"]:
        yield event(choice["index"], {}, choice["finish_reason"])
    if include_usage:
        yield _data({**head, "choices": [], "usage": completion["usage"]})
    yield DONE


def _deltas(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice.get("message") or {"content": choice.get("text")}
    for word in _WORDS.findall(message.get("content") or ""):
        yield {"content": word}
    for number, call in enumerate(message.get("tool_calls") or []):
        function = call["function"]
        start = {"name": function["name"], "arguments": ""}
        yield {"tool_calls": [{"index": number, "id": call["id"], "type": "function", "function": start}]}
        text = function["arguments"]
        for at in range(0, len(text), 5):
            yield {"tool_calls": [{"index": number, "function": {"arguments": text[at : at + 5]}}]}


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
