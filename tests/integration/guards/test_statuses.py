"""What each HTTP status of a guard server means."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from sentinel.clock import SystemClock
from sentinel.errors import PoisonError, SlowDownError, UnavailableError
from sentinel.guards.wire import PathMissingError, Wire, encoded


class Answering:
    """A server that gives every request the same answer."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.paths: list[str] = []
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.paths.append(request.path)
        return web.Response(status=self.status, headers=self.headers, text="{}")


@pytest.fixture
async def server() -> AsyncIterator[Answering]:
    made = Answering()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def wire(server: Answering) -> AsyncIterator[Wire]:
    made = Wire(
        server.url, "guard", {}, api_key=None, connect_s=10, total_s=30, max_response_bytes=1000,
        clock=SystemClock(),
    )  # fmt: skip
    yield made
    await made.aclose()


@pytest.mark.parametrize(
    ("status", "headers", "error", "wait"),
    [
        (429, {}, SlowDownError, None),
        (429, {"Retry-After": "7"}, SlowDownError, 7.0),
        (503, {"Retry-After": "2.5"}, SlowDownError, 2.5),
        (503, {}, UnavailableError, None),
        (500, {"Retry-After": "7"}, UnavailableError, None),
        (502, {}, UnavailableError, None),
        (400, {}, PoisonError, None),
        (413, {}, PoisonError, None),
        (422, {}, PoisonError, None),
        (404, {}, PathMissingError, None),
        (405, {}, PathMissingError, None),
        (501, {}, PathMissingError, None),
        (401, {}, UnavailableError, None),
        (403, {}, UnavailableError, None),
        # Not followed: it would carry the key and the texts elsewhere.
        (307, {"Location": "/elsewhere"}, UnavailableError, None),
        (204, {}, UnavailableError, None),
    ],
)
@pytest.mark.parametrize("batch", [True, False], ids=["batch", "single"])
async def test_a_status_is_one_kind_of_error(
    server: Answering,
    wire: Wire,
    status: int,
    headers: dict[str, str],
    error: type[Exception],
    wait: float | None,
    batch: bool,
) -> None:
    server.status, server.headers = status, headers
    conversation = encoded([{"role": "user", "content": "secret words"}])
    call = wire.batch(b"[" + conversation + b"]", 1) if batch else wire.single(conversation)
    with pytest.raises(error) as caught:
        await call
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)
    if isinstance(caught.value, SlowDownError):
        assert caught.value.retry_after == wait
    assert server.paths == ["/v1/chat/completions" + ("/batch" if batch else "")]
