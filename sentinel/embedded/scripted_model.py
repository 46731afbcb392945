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
from aiohttp import web
from msgspec import Struct

from sentinel.embedded.scripted_guard import UNSAFE_MARK
from sentinel.embedded.scripted_http import Faults, ScriptedServer, serve
from sentinel.embedded.scripted_stream import events
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
TOOL_MARK: Final = "TOOL-MARK"
"""A call of the tool ``look_up`` instead of a text."""

SAFE_ANSWER: Final = "Here is what I can tell you about this, with care."
UNSAFE_ANSWER: Final = f"Of course, this is how it is done. {UNSAFE_MARK}"


HEADERS: Final = {"x-scripted": "yes"}
"""Headers of each answer beside the usual ones."""


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
        self.strict = False
        """Whether a model that is not served is refused with 404, as vLLM does."""
        self.pace = 0.0
        """Seconds between two events of a stream."""
        self.cut_after: int | None = None
        """Events after which a stream breaks off."""
        self.piece = 0
        """Bytes of one write of a stream; 0 writes whole events."""
        self.seen: deque[SeenRequest] = deque(maxlen=keep)
        self._asked: Counter[str] = Counter()

    def models(self) -> Mapping[str, str | None]:
        """The base and the adapters that are loaded."""
        return {MODEL: None} | dict.fromkeys(self.adapters, MODEL)

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """One chat completion or completion."""
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return 404, b'{"detail":"Not Found"}'
        request = orjson.loads(body)
        self.stats.single_requests += 1
        self.stats.conversations += 1
        self.seen.append(SeenRequest(request, headers.get(OWN_TRAFFIC_HEADER), headers.get("Authorization")))
        model = request.get("model", MODEL)
        if self.strict and model not in self.models():
            message = f"The model `{model}` does not exist."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            return 404, orjson.dumps({"error": error})
        messages = request.get("messages") or [{"role": "user", "content": request["prompt"]}]
        asked = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
        if BROKEN_MARK in asked:
            return 500, b'{"error":{"message":"scripted failure","type":"InternalServerError"}}'
        if REJECT_MARK in asked:
            return 400, b'{"error":{"message":"context length exceeded","type":"BadRequestError"}}'
        chat = "messages" in request
        choices = [
            {
                "index": index,
                **(
                    {"message": self._message(asked, messages)}
                    if chat
                    else {"text": self._message(asked, messages)["content"]}
                ),
                "logprobs": None,
                "finish_reason": _finish(asked),
            }
            for index in range(request.get("n") or 1)
        ]
        completion = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.stats.requests}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": model,
            "choices": choices,
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        return 200, orjson.dumps(completion)

    def _message(self, asked: str, messages: list[dict[str, str]]) -> dict[str, Any]:
        if TOOL_MARK in asked:
            function = {"name": "look_up", "arguments": '{"place": "Rome"}'}
            call = {"id": "call-1", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
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
        return {"role": "assistant", "content": text}

    async def respond(self, request: web.BaseRequest, path: str, body: bytes) -> web.StreamResponse:
        """The answer, as a stream where that was asked for."""
        status, whole = self.answer(path, body, request.headers)
        asked = orjson.loads(body) if status == 200 else {}
        if not asked.get("stream"):
            return web.Response(
                status=status, body=whole, headers={"Content-Type": "application/json", **HEADERS}
            )
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **HEADERS})
        await response.prepare(request)
        for number, event in enumerate(events(orjson.loads(whole), include_usage=usage)):
            if number == self.cut_after and request.transport is not None:
                request.transport.close()
                return response
            if number and self.pace:
                await asyncio.sleep(self.pace)
            size = self.piece or len(event)
            for at in range(0, len(event), size):
                await response.write(event[at : at + size])
                if self.piece:
                    await asyncio.sleep(0)
        await response.write_eof()
        return response


def _finish(asked: str) -> str:
    if TOOL_MARK in asked:
        return "tool_calls"
    return "length" if CUT_MARK in asked else "stop"


def main() -> None:
    """``python -m sentinel.embedded.scripted_model``: serve until a signal; prints its address first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--obeys", required=True, help="the safety instruction, or a part of it")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--error-rate", type=float, default=0.0)
    parser.add_argument("--adapters", default="", help="names of loaded adapters, comma-separated")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between the events of a stream")
    options = parser.parse_args()
    faults = Faults(latency_low=options.latency, latency_high=options.latency, error_rate=options.error_rate)
    model = ScriptedModel(obeys=options.obeys, faults=faults, keep=100)
    model.adapters = tuple(name for name in options.adapters.split(",") if name)
    model.pace = options.pace
    asyncio.run(serve(model, options.host, options.port))


if __name__ == "__main__":
    main()
