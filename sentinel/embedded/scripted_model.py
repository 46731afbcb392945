"""A served model whose answers follow rules, for tests and demonstrations of the re-prompt path.

The last user text decides (marks below); an unsafe answer holds the scripted guard's `UNSAFE_MARK`, so that
both servers together play the whole loop. Requests are kept, so that tests see what was really sent.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Final

import orjson
from msgspec import Struct

from sentinel.embedded.scripted_guard import UNSAFE_MARK
from sentinel.embedded.scripted_http import Faults, ScriptedServer, serve
from sentinel.events import OWN_TRAFFIC_HEADER

MODEL: Final = "scripted-model"

TEMPT_MARK: Final = "TEMPT-MARK"
"""Unsafe unless the safety instruction is there."""
STUBBORN_MARK: Final = "STUBBORN-MARK"
"""Unsafe whatever is said."""
SECOND_MARK: Final = "SECOND-MARK"
"""Unsafe at the first call with this text, safe from the second on."""
ZERO_MARK: Final = "ZERO-MARK"
"""A safe answer with U+0000 in it."""
SILENT_MARK: Final = "SILENT-MARK"
"""An empty answer."""
CUT_MARK: Final = "CUT-MARK"
"""A safe answer that ends at the token limit."""
BROKEN_MARK: Final = "BROKEN-MARK"
"""500."""
REJECT_MARK: Final = "REJECT-MARK"
"""400, as for a prompt longer than the context."""

SAFE_ANSWER: Final = "Here is what I can tell you about this, with care."
UNSAFE_ANSWER: Final = f"Of course, this is how it is done. {UNSAFE_MARK}"


class SeenRequest(Struct, frozen=True):
    """One request as it came."""

    body: dict[str, Any]
    marker: str | None
    """The header that tells our own traffic apart."""
    authorization: str | None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation that was sent."""
        messages: list[dict[str, str]] = self.body["messages"]
        return messages


class ScriptedModel(ScriptedServer):
    """The server. ``obeys`` is the text whose presence outside assistants' turns makes `TEMPT_MARK` safe."""

    def __init__(
        self, *, obeys: str, faults: Faults | None = None, seed: int = 0, keep: int = 10_000
    ) -> None:
        super().__init__(faults=faults, seed=seed)
        self._obeys = obeys
        self.adapters: tuple[str, ...] = ()
        """Names of loaded adapters; they answer as the base does."""
        self.seen: deque[SeenRequest] = deque(maxlen=keep)
        self._asked: Counter[str] = Counter()

    def models(self) -> Mapping[str, str | None]:
        """The base and the adapters that are loaded."""
        return {MODEL: None} | dict.fromkeys(self.adapters, MODEL)

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """One chat completion."""
        if path != "/v1/chat/completions":
            return 404, b'{"detail":"Not Found"}'
        request = orjson.loads(body)
        self.stats.single_requests += 1
        self.stats.conversations += 1
        self.seen.append(SeenRequest(request, headers.get(OWN_TRAFFIC_HEADER), headers.get("Authorization")))
        messages = request["messages"]
        asked = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
        if BROKEN_MARK in asked:
            return 500, b'{"error":{"message":"scripted failure","type":"InternalServerError"}}'
        if REJECT_MARK in asked:
            return 400, b'{"error":{"message":"context length exceeded","type":"BadRequestError"}}'
        self._asked[asked] += 1
        told = any(self._obeys in turn["content"] for turn in messages if turn["role"] != "assistant")
        text = SAFE_ANSWER
        tempted = TEMPT_MARK in asked and not told
        first = SECOND_MARK in asked and self._asked[asked] == 1
        if STUBBORN_MARK in asked or tempted or first:
            text = UNSAFE_ANSWER
        elif ZERO_MARK in asked:
            text = "Here is\0 what I can tell you."
        elif SILENT_MARK in asked:
            text = ""
        completion = {
            "id": f"chatcmpl-{self.stats.requests}",
            "object": "chat.completion",
            "created": 0,
            "model": request.get("model", MODEL),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": "length" if CUT_MARK in asked else "stop",
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        return 200, orjson.dumps(completion)


def main() -> None:
    """``python -m sentinel.embedded.scripted_model``: serve until a signal; prints its address first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--obeys", required=True, help="the safety instruction, or a part of it")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--error-rate", type=float, default=0.0)
    options = parser.parse_args()
    faults = Faults(latency_low=options.latency, latency_high=options.latency, error_rate=options.error_rate)
    asyncio.run(serve(ScriptedModel(obeys=options.obeys, faults=faults), options.host, options.port))


if __name__ == "__main__":
    main()
