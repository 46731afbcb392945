"""A route over scripted replicas, a real database and, where a test asks for it, a broker."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from producers.route.app import RouteService
from sentinel import logs
from sentinel.embedded.scripted_model import MODEL, ScriptedModel
from sentinel.settings import Settings, load
from sentinel.settings.service import Logging
from tests.support.promotions import promote
from tests.support.waiting import wait_until

PUBLIC = "assistant"
SERVED = "first"
ADAPTER = "adapter-1a2b"
OTHER = "adapter-3c4d"


class Stage:
    """The route and what it stands on."""

    def __init__(
        self,
        service: RouteService,
        running: asyncio.Task[None],
        replicas: list[ScriptedModel],
        client: aiohttp.ClientSession,
        url: str,
    ) -> None:
        self.service = service
        self._running = running
        self.replicas = replicas
        self.client = client
        self.database_url = url

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    async def end(self) -> None:
        """Stop the route and wait until it has."""
        self.service.stop()
        await self._running

    async def promote(self, adapter: str | None, *, action: str = "promote") -> None:
        """Put a row in, and wait until the route follows it."""
        generation = await promote(self.database_url, SERVED, adapter, action=action)
        await wait_until(lambda: self.service.promotions.generation(SERVED) >= generation, 60)

    async def chat(self, text: str = "Hello?", model: str = PUBLIC, **more: Any) -> aiohttp.ClientResponse:
        """A chat completion; the body is read."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        reply = await self.client.post(f"{self.url}/v1/chat/completions", json=body)
        await reply.read()
        return reply

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


Make = Callable[..., Any]


@pytest.fixture
async def stack(database_url: str) -> AsyncIterator[AsyncExitStack]:
    # Before the database goes, what uses it ends.
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def make(stack: AsyncExitStack, database_url: str, tmp_path: Path) -> Make:
    """What makes a running `Stage`; its keywords are settings."""

    async def build(
        replicas: int | list[ScriptedModel] = 1, *, url: str = database_url, **settings: str
    ) -> Stage:
        servers: list[ScriptedModel] = []
        if isinstance(replicas, int):
            for _ in range(replicas):
                server = await stack.enter_async_context(ScriptedModel(obeys="safe"))
                server.strict = True
                server.adapters = (ADAPTER, OTHER)
                servers.append(server)
        else:
            servers = replicas
        service = RouteService(configuration(tmp_path, url, [server.url for server in servers], **settings))
        running = asyncio.create_task(service.run())

        started = asyncio.create_task(service.started.wait())
        await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if running.done():
            await running
        stack.push_async_callback(_end, service, running)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        return Stage(service, running, servers, client, url)

    return build


async def _end(service: RouteService, running: asyncio.Task[None]) -> None:
    service.stop()
    await running


def configuration(folder: Path, url: str, replicas: list[str], **settings: str) -> Settings:
    """Settings of a route on free ports."""
    flags = {
        "database.url": url,
        "route.port": "0",
        "route.metrics_port": "0",
        "route.publish": "false",
        "route.spool_dir": str(folder / "route"),
        "route.follow_interval_s": "0.1",
        "route.replica_check_s": "0.3",
        "served_models": f"{{{SERVED}: {{public_name: {PUBLIC}, base: {MODEL}, replicas: {replicas}}}}}",
        **settings,
    }
    return load(
        None,
        [f"{key}={value}" for key, value in flags.items()],
        environ={},
        default_file=Path("/nonexistent"),
    ).settings


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged from DEBUG on, one JSON object a line."""
    stream = io.StringIO()
    logs.configure(Logging(level="DEBUG", format="json"), stream)
    yield stream
    logs.release()
