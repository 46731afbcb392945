"""LiteLLM's StandardLoggingPayload, in the three shapes in which its ``generic_api`` callback posts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from producers.traffic.events import JSON, Exchange, Record


def payload(exchanges: Sequence[Exchange]) -> Record:
    """One object."""
    (exchange,) = exchanges
    return orjson.dumps(_payload(exchange)), [("content-type", JSON)]


def array(exchanges: Sequence[Exchange]) -> Record:
    """A JSON array."""
    return orjson.dumps([_payload(exchange) for exchange in exchanges]), [("content-type", JSON)]


def ndjson(exchanges: Sequence[Exchange]) -> Record:
    """One object on each line."""
    lines = [orjson.dumps(_payload(exchange)) for exchange in exchanges]
    return b"\n".join(lines), [("content-type", b"application/x-ndjson")]


def _payload(exchange: Exchange) -> dict[str, Any]:
    asked, written = exchange.tokens
    began, ended = exchange.sent_at.timestamp(), exchange.answered_at.timestamp()
    return {
        "id": exchange.body.get("id"),
        "litellm_call_id": str(exchange.event_id),
        "trace_id": str(exchange.event_id),
        "call_type": "acompletion",
        "stream": False,
        "status": "success",
        "custom_llm_provider": "openai",
        "startTime": began,
        "endTime": ended,
        "completionStartTime": ended,
        "response_time": ended - began,
        "model": exchange.model,
        "model_group": exchange.model,
        "metadata": {},
        "prompt_tokens": asked,
        "completion_tokens": written,
        "total_tokens": asked + written,
        "messages": exchange.turns,
        "response": exchange.body,
        "model_parameters": {},
        "hidden_params": {},
        "error_str": None,
    }
