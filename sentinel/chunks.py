"""A streamed answer, put together again as the body that a call without streaming would have had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

_TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")
_FINISHED: Final = ("response.completed", "response.incomplete", "response.failed")


def data_of(stream: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of an event stream's ``data`` lines; what is cut off or is none (``[DONE]``) is passed over."""
    for line in stream.splitlines():
        if line.startswith(b"data:"):
            try:
                value = orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict):
                yield value


def assembled(chunks: Iterable[Any]) -> dict[str, Any]:
    """One body from the events of a stream of chat completions, completions or Responses; empty where it is none.

    Each choice keeps its own text, whatever the order. Others wrote the chunks: any value is borne.
    """
    body: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    written: list[str] = []
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        kind = chunk.get("type")
        response = chunk.get("response")
        if isinstance(kind, str) and isinstance(response, dict):
            body |= response
            if kind in _FINISHED and response.get("output"):
                return body
        elif kind == "response.output_text.delta" and isinstance(chunk.get("delta"), str):
            written.append(chunk["delta"])
        else:
            body |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
            parts = chunk.get("choices")
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict):
                    _add(choices, part)
    if written:
        # The application left before the end, or the replica did.
        text = {"type": "output_text", "text": "".join(written)}
        body["output"] = [{"type": "message", "role": "assistant", "content": [text]}]
    elif choices:
        body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def _add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    index = _index(part.get("index")) or 0
    choice = choices.setdefault(index, {"index": index})
    if isinstance(part.get("text"), str):
        choice["text"] = choice.get("text", "") + part["text"]
    delta = part.get("delta")
    if isinstance(delta, dict):
        message = choice.setdefault("message", {"role": "assistant"})
        for key in _TEXTS:
            if isinstance(delta.get(key), str):
                message[key] = message.get(key, "") + delta[key]
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                _add_call(message.setdefault("tool_calls", []), call)
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]


def _add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    identity, given = delta.get("id"), delta.get("function")
    number = _index(delta.get("index"))
    if number is None:
        # Servers that send each call whole number none of them; a piece without id goes on with the last.
        number = len(calls) if isinstance(identity, str) else max(len(calls) - 1, 0)
    # A stream names call 0 before call 1; a gap is filled no further than one call a chunk.
    if number >= len(calls):
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        number = len(calls) - 1
    call = calls[number]
    if isinstance(identity, str):
        call["id"] = identity
    for key in ("name", "arguments"):
        if isinstance(given, dict) and isinstance(given.get(key), str):
            call["function"][key] += given[key]


def _index(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
