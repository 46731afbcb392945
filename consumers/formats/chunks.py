"""A streamed chat completion that was logged as its chunks, put together again."""

from __future__ import annotations

from typing import Any

from consumers.formats.fields import count, mapping

_JOINED = ("content", "refusal", "reasoning_content", "reasoning")


def assembled(chunks: list[Any]) -> dict[str, Any]:
    """One response body from the chunks of a stream; each choice keeps its own text, whatever the order."""
    body: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        body |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        parts = chunk.get("choices")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                _add(choices, part)
    if choices:
        body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def _add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    index = count(part.get("index")) or 0
    choice = choices.setdefault(index, {"index": index, "message": {"role": "assistant"}})
    message, delta = choice["message"], mapping(part.get("delta"))
    for key in _JOINED:
        if isinstance(delta.get(key), str):
            message[key] = message.get(key, "") + delta[key]
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            _add_call(message.setdefault("tool_calls", []), call)
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]


def _add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    number = count(delta.get("index")) or 0
    # A stream names call 0 before call 1; a gap is filled no further than one call a chunk.
    if number >= len(calls):
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        number = len(calls) - 1
    function, given = calls[number]["function"], mapping(delta.get("function"))
    for key in ("name", "arguments"):
        if isinstance(given.get(key), str):
            function[key] += given[key]
