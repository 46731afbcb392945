"""``/healthz``, ``/readyz`` and ``/metrics``, in the same event loop as the work: a stuck loop looks stuck.

/healthz   200 while every supervised part shows signs of life, else 503
/readyz    200 while records are taken in: group joined, nothing halted, breakers closed, else 503
/metrics   Prometheus or OpenMetrics, by the Accept header
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson
from aiohttp import web
from msgspec import Struct

from sentinel.errors import ConfigurationError


class Health(Struct, frozen=True):
    """One look at the service."""

    ok: bool
    problems: tuple[str, ...]
    """What is wrong, each a short sentence without event text."""
    facts: Mapping[str, object]


class HealthServer:
    """Serves on one address until `stop`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        setting: str,
        exposition: Callable[[str], tuple[bytes, str]],
        live: Callable[[], Health],
        ready: Callable[[], Health],
    ) -> None:
        """``exposition`` gives body and content type for an Accept header; ``setting`` names the port's key."""
        self._host = host
        self._port = port
        self._setting = setting
        self._exposition = exposition
        self._live = live
        self._ready = ready
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The bound port, also where 0 was asked for."""
        if self._runner is None or not self._runner.addresses:
            return self._port
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listen. Raises ConfigurationError when the address cannot be bound."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port} ({error.strerror}): set {self._setting}"
            ) from error

    async def stop(self) -> None:
        """Close the listener; idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._live())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def _answer(health: Health) -> web.Response:
    body = {"ok": health.ok, "problems": health.problems, **health.facts}
    return web.Response(
        body=orjson.dumps(body), status=200 if health.ok else 503, content_type="application/json"
    )
