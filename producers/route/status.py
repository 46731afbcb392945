"""``/healthz``, ``/readyz`` and ``/metrics`` of the route, on a port that applications do not see.

/healthz   200 while the event loop turns
/readyz    200 while every served model has a replica and the promotions were read once, else 503
/metrics   Prometheus or OpenMetrics, by the Accept header
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
from aiohttp import web

from producers.route.errors import JSON
from producers.route.metrics import RouteMetrics
from sentinel.errors import ConfigurationError


class StatusServer:
    """Serves on one address until `stop`."""

    def __init__(self, host: str, port: int, *, metrics: RouteMetrics, look: Callable[[], list[str]]) -> None:
        """``look`` says what is wrong now, each a short sentence."""
        self._host = host
        self._port = port
        self._metrics = metrics
        self._look = look
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
        app.router.add_get("/metrics", self._exposition)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port} ({error.strerror}): set route.metrics_port"
            ) from error

    async def stop(self) -> None:
        """Close the listener; idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(body=b'{"ok":true}', headers=JSON)

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = self._look()
        body = orjson.dumps({"ok": not problems, "problems": problems})
        return web.Response(status=503 if problems else 200, body=body, headers=JSON)

    async def _exposition(self, request: web.Request) -> web.Response:
        self._look()
        body, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
