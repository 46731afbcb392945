"""What the doctor hears from the daemon's own health address."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from daemon.doctor import running
from daemon.doctor.report import Finding, Level
from sentinel.health import Health, HealthServer
from sentinel.metrics import Metrics


@asynccontextmanager
async def daemon(ready: Health) -> AsyncIterator[int]:
    server = HealthServer(
        "127.0.0.1",
        0,
        setting="metrics.port",
        exposition=Metrics(CollectorRegistry()).exposition,
        live=lambda: Health(True, (), {}),
        ready=lambda: ready,
    )
    await server.start()
    yield server.port
    await server.stop()


@asynccontextmanager
async def other_program() -> AsyncIterator[int]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<h1>It works</h1>")

    app = web.Application()
    app.router.add_get("/readyz", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def examine(port: int, host: str = "127.0.0.1") -> Finding:
    (found,) = await running.examine_daemon(host, port)
    assert found.part == "daemon"
    assert found.level is Level.OK or found.remedy
    return found


CASES: list[tuple[Callable[[], AbstractAsyncContextManager[int]], Level, str]] = [
    (lambda: daemon(Health(True, (), {})), Level.OK, "takes records in"),
    (
        lambda: daemon(Health(False, ("the guard is away", "x is halted"), {})),
        Level.WARN,
        "guard is away; x is halted",
    ),
    (other_program, Level.FAIL, "another program"),
]


@pytest.mark.parametrize(("serve", "level", "words"), CASES)
async def test_what_listens(
    serve: Callable[[], AbstractAsyncContextManager[int]], level: Level, words: str
) -> None:
    async with serve() as port:
        for host in ("127.0.0.1", "0.0.0.0"):
            found = await examine(port, host)
            assert found.level is level
            assert words in found.message


async def test_none_runs(free_port: int) -> None:
    assert (await examine(free_port)).level is Level.OK
    assert await running.examine_daemon("127.0.0.1", 0) == []


async def test_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_REQUEST_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer" in (await examine(silent.getsockname()[1])).message
