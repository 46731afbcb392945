"""Request and response bodies of the OpenAI API, as gateways log them: chat completions and Responses."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from producers.traffic.events import JSON, Exchange, Record


def chat(exchanges: Sequence[Exchange]) -> Record:
    """The bodies as they went over the wire."""
    (exchange,) = exchanges
    pair = {"request": {"model": exchange.model, "messages": exchange.turns}, "response": exchange.body}
    return orjson.dumps(pair), [("content-type", JSON)]


def responses(exchanges: Sequence[Exchange]) -> Record:
    """The bodies that the same exchange would have had through the Responses API."""
    (exchange,) = exchanges
    asked, written = exchange.tokens
    cut = exchange.finish_reason == "length"
    text = {"type": "output_text", "text": exchange.answer, "annotations": []}
    response = {
        "id": exchange.body.get("id"),
        "object": "response",
        "created_at": exchange.answered_at.timestamp(),
        "model": exchange.answered_by,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [
            {
                "id": f"msg_{exchange.event_id.hex}",
                "type": "message",
                "role": "assistant",
                "status": "incomplete" if cut else "completed",
                "content": [text],
            }
        ],
        "usage": {"input_tokens": asked, "output_tokens": written, "total_tokens": asked + written},
    }
    pair = {"request": {"model": exchange.model, "input": exchange.prompt}, "response": response}
    return orjson.dumps(pair), [("content-type", JSON)]
