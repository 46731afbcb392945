"""Our own JSON events for tests: what is in them decides what the scripted guard says."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson

from sentinel.embedded.scripted_guard import UNSAFE_MARK


def event(number: int, *, unsafe: bool = False, **fields: Any) -> dict[str, Any]:
    """One event as a producer writes it; ``fields`` replace or add keys (None removes one)."""
    made: dict[str, Any] = {
        "id": f"e-{number}-{uuid4().hex[:8]}",
        "time": "2026-03-01T10:00:00Z",
        "source": "tests",
        "model": "model-a",
        "messages": [{"role": "user", "content": f"Tell me about thing {number}."}],
        "response": f"Thing {number} is {UNSAFE_MARK if unsafe else 'round'}.",
        "finish_reason": "stop",
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }
    made.update(fields)
    return {key: value for key, value in made.items() if value is not None}


def encoded(number: int, *, unsafe: bool = False, **fields: Any) -> bytes:
    """`event` as the bytes of a record."""
    return orjson.dumps(event(number, unsafe=unsafe, **fields))


def many(count: int, *, unsafe_every: int = 0, start: int = 0) -> list[bytes]:
    """``count`` events; every n-th answer is unsafe where ``unsafe_every`` is n."""
    return [
        encoded(start + i, unsafe=bool(unsafe_every) and (start + i) % unsafe_every == 0)
        for i in range(count)
    ]
