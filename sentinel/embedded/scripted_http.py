"""The part that the scripted servers share: a local HTTP server whose delays and faults change while it runs.

Administration, also over HTTP so that another process can do it: ``POST /admin/faults`` with any fields of
`Faults` as JSON (unknown ones are refused), ``DELETE /admin/faults``, ``GET /admin/stats``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import msgspec
import orjson
from aiohttp import web

JSON: Final = {"Content-Type": "application/json"}
_FAILED: Final = b'{"error":{"message":"scripted failure","type":"InternalServerError"}}'
_LIMITED: Final = b'{"error":{"message":"scripted limit","type":"rate_limit_error"}}'


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong; rates are probabilities in [0, 1] for each request, durations are seconds."""

    latency_low: float = 0.0
    latency_high: float = 0.0
    """Answers take a uniformly drawn time between the two."""
    error_rate: float = 0.0
    error_status: int = 500
    slow_down_rate: float = 0.0
    """429 with ``retry_after`` as the header's text, where that is not empty."""
    retry_after: str = "1"
    hang_rate: float = 0.0
    """No answer until the client gives up or the server stops."""
    garbage_rate: float = 0.0
    """200 with a body that is no JSON."""
    wrong_shape_rate: float = 0.0
    """200 with JSON that is no chat completion."""
    truncate_rate: float = 0.0
    """The body ends in the middle and the connection closes."""
    reset_rate: float = 0.0
    """The connection is dropped without an answer."""
    nul_rate: float = 0.0
    """U+0000 inside the generated text."""
    huge_bytes: int = 0
    """Blanks before the JSON, to make the answer this long."""
    lose_choice_rate: float = 0.0
    """One choice fewer than asked for."""
    batch_missing: bool = False
    """404 on the batch endpoint, as an engine without it answers."""


@dataclass(slots=True)
class Stats:
    """What a scripted server was asked since it started."""

    requests: int = 0
    batch_requests: int = 0
    single_requests: int = 0
    conversations: int = 0
    faults: int = 0
    in_flight: int = 0
    max_in_flight: int = 0


class ScriptedServer:
    """A local server; a subclass answers ``POST`` requests. Use as ``async with``; `url` has its address."""

    def __init__(self, *, faults: Faults | None = None, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self.stats = Stats()
        self._rng = random.Random(seed)
        self._runner: web.ServerRunner | None = None
        self._stopping = asyncio.Event()
        self.url = ""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on ``port``, or on a free one for 0."""
        self._stopping.clear()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound = self._runner.addresses[0]
        self.url = f"http://{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """End hanging answers and close the port."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and JSON body of a ``POST``; pure but for the counters. Subclasses write it."""
        raise NotImplementedError

    async def respond(self, request: web.BaseRequest, path: str, body: bytes) -> web.StreamResponse:
        """The HTTP answer where no fault was drawn; a subclass may stream it."""
        return _json(*self.answer(path, body, request.headers))

    def models(self) -> Mapping[str, str | None]:
        """Names for ``/v1/models``, each with its parent; None for base weights."""
        raise NotImplementedError

    def set_faults(self, **changes: Any) -> None:
        """Change some faults at run time; raises ValueError or TypeError for what `Faults` does not know."""
        self.faults = msgspec.convert(msgspec.structs.asdict(self.faults) | changes, Faults)

    def clear_faults(self) -> None:
        """Answer at once and correctly from now on."""
        self.faults = Faults()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if request.method == "POST" and not path.startswith("/admin/"):
            self.stats.requests += 1
            self.stats.in_flight += 1
            self.stats.max_in_flight = max(self.stats.max_in_flight, self.stats.in_flight)
            try:
                return await self._answer(request, path)
            finally:
                self.stats.in_flight -= 1
        if path == "/v1/models":
            cards = [
                {"id": name, "object": "model", "parent": parent} for name, parent in self.models().items()
            ]
            return _json(200, orjson.dumps({"object": "list", "data": cards}))
        if path == "/health":
            return web.Response(status=200)
        if path == "/admin/stats":
            values = {field.name: getattr(self.stats, field.name) for field in fields(self.stats)}
            return _json(200, orjson.dumps(values))
        if path == "/admin/faults":
            if request.method == "DELETE":
                self.clear_faults()
            elif request.method == "POST":
                try:
                    self.set_faults(**orjson.loads(await request.read()))
                except (ValueError, TypeError) as error:
                    return _json(400, orjson.dumps({"error": str(error)}))
            return _json(200, msgspec.json.encode(self.faults))
        return _json(404, b'{"detail":"Not Found"}')

    async def _answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        faults = self.faults
        # Not `request.read()`, which refuses bodies above 1 MiB.
        body = await request.content.read()
        if faults.latency_high > 0:
            await asyncio.sleep(self._rng.uniform(faults.latency_low, faults.latency_high))
        if faults.batch_missing and path.endswith("/batch"):
            return _json(404, b'{"detail":"Not Found"}')
        fault = self._draw(faults)
        if fault is None:
            return await self.respond(request, path, body)
        self.stats.faults += 1
        if fault == "error":
            return _json(faults.error_status, _FAILED)
        if fault == "slow_down":
            response = _json(429, _LIMITED)
            if faults.retry_after:
                response.headers["Retry-After"] = faults.retry_after
            return response
        if fault == "hang":
            await self._stopping.wait()
            return _json(503, b"{}")
        if fault == "garbage":
            return _json(200, b"<html>this is not JSON")
        if fault == "wrong_shape":
            return _json(200, b'{"choices":"none"}')
        if fault == "reset":
            if request.transport is not None:
                request.transport.abort()
            return _json(500, b"{}")
        status, whole = self.answer(path, body, request.headers)
        if fault == "huge":
            return await self._huge(request, faults.huge_bytes, whole)
        if fault == "lose_choice":
            completion = orjson.loads(whole)
            completion["choices"] = completion.get("choices", [])[1:]
            return _json(status, orjson.dumps(completion))
        if fault == "nul":
            completion = orjson.loads(whole)
            for choice in completion.get("choices", []):
                choice["message"]["content"] += "\0"
            return _json(status, orjson.dumps(completion))
        return await self._truncated(request, whole)

    def _draw(self, faults: Faults) -> str | None:
        for name, rate in (
            ("error", faults.error_rate),
            ("slow_down", faults.slow_down_rate),
            ("hang", faults.hang_rate),
            ("garbage", faults.garbage_rate),
            ("wrong_shape", faults.wrong_shape_rate),
            ("truncate", faults.truncate_rate),
            ("reset", faults.reset_rate),
            ("nul", faults.nul_rate),
            ("lose_choice", faults.lose_choice_rate),
            ("huge", 1.0 if faults.huge_bytes else 0.0),
        ):
            if rate > 0 and self._rng.random() < rate:
                return name
        return None

    async def _huge(self, request: web.BaseRequest, size: int, whole: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers=JSON)
        response.enable_chunked_encoding()
        await response.prepare(request)
        blanks = b" " * 65_536
        try:
            for _ in range(size // len(blanks)):
                await response.write(blanks)
            await response.write(whole)
            await response.write_eof()
        except ConnectionError:
            # The client stopped reading, which is what this fault is for.
            pass
        return response

    async def _truncated(self, request: web.BaseRequest, whole: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers=JSON)
        response.content_length = len(whole)
        await response.prepare(request)
        await response.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.close()
        return response


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, headers=JSON)


async def serve(server: ScriptedServer, host: str, port: int) -> None:
    """Run ``server`` until SIGINT or SIGTERM; the address is the first line on standard output."""
    import signal
    import sys

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await server.start(host, port)
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop()
