"""The product's own JSON events of one call that went through the route, one for each choice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import orjson
from msgspec import Struct

from sentinel.chunks import assembled, data_of
from sentinel.errors import SentinelError

SOURCE: Final = "sentinel-route"

Kind = Literal["chat", "completions", "responses"]
KINDS: Final[Mapping[str, Kind]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
"""The paths whose calls are reported."""


class Call(Struct, frozen=True, kw_only=True):
    """One call as it passed: both bodies, and who answered."""

    kind: Kind
    request: bytes
    answer: bytes
    """The replica's body as far as it came: JSON, or the text of an event stream."""
    streamed: bool
    model: str
    """The name that the application asked for."""
    served_by: str | None
    """The adapter or base that answered, by the replica's name for it."""
    at: dt.datetime
    """When the request came, UTC."""
    traceparent: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return len(self.request) + len(self.answer)


class UnreadableCallError(SentinelError):
    """A body is not what its path promises; the replica took it all the same."""


def events_of(call: Call) -> list[bytes]:
    """Its events as JSON lines. Raises `UnreadableCallError`."""
    try:
        request = orjson.loads(call.request)
        answer = assembled(data_of(call.answer)) if call.streamed else orjson.loads(call.answer)
        if not isinstance(request, dict) or not isinstance(answer, dict):
            raise UnreadableCallError("no object")
        common = _common(call, request, answer)
        return [orjson.dumps({**common, **event}) for event in _READERS[call.kind](request, answer)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # The message of a parser's error may hold the text.
        raise UnreadableCallError(type(error).__name__) from None


def _common(call: Call, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    usage = answer.get("usage") or {}
    tokens = {
        "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "output_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
    }
    user = request.get("safety_identifier") or request.get("user")
    found = {
        "response_id": answer.get("id"),
        "model": call.model,
        "served_by": call.served_by,
        "user": user if isinstance(user, str) else None,
        "usage": tokens if any(isinstance(count, int) for count in tokens.values()) else None,
        "traceparent": call.traceparent,
    }
    common = {key: value for key, value in found.items() if value is not None}
    return {"source": SOURCE, "time": call.at.isoformat(), **common}


def _choices(answer: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Number, choice and what its event has beside the text."""
    for position, choice in enumerate(answer["choices"]):
        number = choice.get("index", position)
        finish = choice.get("finish_reason")
        yield number, choice, {"choice": number, **({"finish_reason": finish} if finish else {})}


def _chat(request: dict[str, Any], answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for _, choice, event in _choices(answer):
        message = choice.get("message") or {}
        said = {key: value for key, value in message.items() if value not in (None, [], "")}
        text = message.get("content")
        plain = set(said) <= {"role", "content"} and (text is None or isinstance(text, str))
        yield {"messages": request["messages"], "response": (text or "") if plain else said, **event}


def _completions(request: dict[str, Any], answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    prompt = request["prompt"]
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UnreadableCallError("prompts are token ids")
    answers = list(_choices(answer))
    each = max(1, int(request.get("n") or 1))
    for number, choice, event in answers:
        text = choice.get("text") or ""
        asked = prompts[min(number // each, len(prompts) - 1)]
        if request.get("echo") and text.startswith(asked):
            text = text[len(asked) :]
        yield {"prompt": asked, "response": text, **event}


def _responses(request: dict[str, Any], answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    asked = request["input"]
    turns = (
        [{"role": "user", "content": asked}] if isinstance(asked, str) else [_turn(item) for item in asked]
    )
    if request.get("instructions"):
        turns.insert(0, {"role": "system", "content": request["instructions"]})
    said: dict[str, Any] = {"role": "assistant", "content": [], "tool_calls": []}
    for item in answer["output"]:
        turn = _turn(item)
        content = turn.get("content")
        said["content"] += content if isinstance(content, list) else [content] if content else []
        said["tool_calls"] += turn.get("tool_calls", [])
        if item.get("type") == "reasoning":
            said.setdefault("reasoning", []).extend(item.get("summary") or [])
    finish = {"finish_reason": answer["status"]} if isinstance(answer.get("status"), str) else {}
    yield {"messages": turns, "response": said, **finish}


def _turn(item: dict[str, Any]) -> dict[str, Any]:
    """An item of the Responses API as a chat message."""
    match item.get("type"):
        case "function_call" | "custom_tool_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments", item.get("input"))}
            return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
        case "function_call_output" | "custom_tool_call_output":
            return {"role": "tool", "content": item.get("output")}
        case "reasoning":
            return {"role": "assistant"}
        case _:
            return {"role": item.get("role", "user"), "content": item.get("content")}


_READERS: Final = {"chat": _chat, "completions": _completions, "responses": _responses}
