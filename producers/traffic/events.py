"""An exchange, and the record that an application of our own would write about it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import orjson
from msgspec import Struct

SOURCE: Final = "sentinel-traffic"
JSON: Final = b"application/json"

Record = tuple[bytes, list[tuple[str, bytes]]]
"""Value and headers."""


class Exchange(Struct, frozen=True, kw_only=True):
    """A request and its answer. The id is random: a repeated run is new traffic, whatever its seed."""

    event_id: UUID
    sent_at: dt.datetime
    answered_at: dt.datetime
    model: str
    """The name that was asked for."""
    prompt: str
    body: dict[str, Any]
    """The server's answer, an OpenAI chat completion."""
    served_by: str | None = None
    """The adapter that answered, where the route says it."""

    @property
    def answer(self) -> str:
        """The answer's text."""
        return str(self.body["choices"][0]["message"].get("content") or "")

    @property
    def answered_by(self) -> str:
        """The model's name by the server's own word, else the one asked for."""
        return str(self.body.get("model") or self.model)

    @property
    def finish_reason(self) -> str:
        """Why the answer ended."""
        return str(self.body["choices"][0].get("finish_reason") or "stop")

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer."""
        usage = self.body.get("usage") or {}
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)

    @property
    def turns(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return [{"role": "user", "content": self.prompt}]


def is_answer(body: Any) -> bool:
    """Whether a body is a chat completion with a message."""
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and isinstance(first.get("message"), dict)


def event_of(exchange: Exchange) -> dict[str, Any]:
    """The exchange as the product's own event."""
    asked, written = exchange.tokens
    event = {
        "id": exchange.event_id,
        "time": exchange.sent_at,
        "source": SOURCE,
        "model": exchange.answered_by,
        "messages": exchange.turns,
        "response": exchange.answer,
        "response_id": exchange.body.get("id"),
        "served_by": exchange.served_by,
        "finish_reason": exchange.finish_reason,
        "usage": {"input_tokens": asked, "output_tokens": written},
    }
    return {key: value for key, value in event.items() if value is not None}


def native(exchanges: Sequence[Exchange]) -> Record:
    """Our own JSON event."""
    (exchange,) = exchanges
    return orjson.dumps(event_of(exchange)), [("content-type", JSON)]
