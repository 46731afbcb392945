"""An exchange as the record that a producer of some format would write."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import orjson
from msgspec import Struct

SOURCE: Final = "sentinel-traffic"

Record = tuple[bytes, list[tuple[str, bytes]]]
"""Value and headers."""


class Exchange(Struct, frozen=True, kw_only=True):
    """A request and its answer. The id is random: a repeated run is new traffic, whatever its seed."""

    event_id: UUID
    sent_at: dt.datetime
    model: str
    prompt: str
    body: dict[str, Any]
    """The server's answer, an OpenAI chat completion."""

    @property
    def answer(self) -> str:
        """The answer's text."""
        return str(self.body["choices"][0]["message"].get("content") or "")


def native(exchange: Exchange) -> Record:
    """Our own JSON event."""
    usage = exchange.body.get("usage") or {}
    event = {
        "id": exchange.event_id,
        "time": exchange.sent_at,
        "source": SOURCE,
        "model": exchange.body.get("model") or exchange.model,
        "messages": [{"role": "user", "content": exchange.prompt}],
        "response": exchange.answer,
        "finish_reason": exchange.body["choices"][0].get("finish_reason"),
        "usage": {
            "input_tokens": usage.get("prompt_tokens", 0),
            "output_tokens": usage.get("completion_tokens", 0),
        },
    }
    return orjson.dumps(event), [("content-type", b"application/json")]


def cloudevent(exchange: Exchange) -> Record:
    """The same as a structured CloudEvent (1.0)."""
    envelope = {
        "specversion": "1.0",
        "id": exchange.event_id,
        "source": SOURCE,
        "type": "io.sentinel.prompt",
        "time": exchange.sent_at,
        "datacontenttype": "application/json",
        "data": orjson.Fragment(native(exchange)[0]),
    }
    return orjson.dumps(envelope), [("content-type", b"application/cloudevents+json")]


def openai_pair(exchange: Exchange) -> Record:
    """The request and response bodies of the chat completions API."""
    pair = {
        "request": {"model": exchange.model, "messages": [{"role": "user", "content": exchange.prompt}]},
        "response": exchange.body,
    }
    return orjson.dumps(pair), [("content-type", b"application/json")]


FORMATS: Final[dict[str, Callable[[Exchange], Record]]] = {
    "native": native,
    "cloudevents": cloudevent,
    "openai": openai_pair,
}
"""By the name of ``--format``."""
