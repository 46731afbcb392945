"""The health server over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from sentinel.errors import ConfigurationError
from sentinel.health import Health, HealthServer
from sentinel.metrics import Metrics
from sentinel.outcomes import Outcome


@dataclass
class Served:
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    live: Health = field(default_factory=lambda: Health(True, (), {"stopping": False}))
    ready: Health = field(default_factory=lambda: Health(True, (), {"partitions": 2}))
    url: str = ""


def _server(port: int, served: Served) -> HealthServer:
    return HealthServer(
        "127.0.0.1",
        port,
        setting="metrics.port",
        exposition=served.metrics.exposition,
        live=lambda: served.live,
        ready=lambda: served.ready,
    )


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    server = _server(0, made)
    await server.start()
    assert server.port != 0
    made.url = f"http://127.0.0.1:{server.port}"
    yield made
    await server.stop()
    await server.stop()
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_both_are_200_while_all_is_well(served: Served, client: aiohttp.ClientSession) -> None:
    for path in ("/healthz", "/readyz"):
        async with client.get(served.url + path) as answer:
            assert answer.status == 200
            assert answer.content_type == "application/json"
            assert (await answer.json())["ok"] is True


async def test_each_is_503_for_its_own_reasons(served: Served, client: aiohttp.ClientSession) -> None:
    served.ready = Health(False, ("llm.events/0 is halted (flood)",), {"partitions": 1})
    async with client.get(f"{served.url}/readyz") as answer:
        assert answer.status == 503
        assert await answer.json() == {
            "ok": False,
            "problems": ["llm.events/0 is halted (flood)"],
            "partitions": 1,
        }
    async with client.get(f"{served.url}/healthz") as answer:
        assert answer.status == 200
    served.live = Health(False, ("poller is silent",), {})
    async with client.get(f"{served.url}/healthz") as answer:
        assert answer.status == 503


async def test_metrics_parse_in_both_formats(served: Served, client: aiohttp.ClientSession) -> None:
    served.metrics.events.inc(Outcome.STORED.value, "", by=3)
    async with client.get(f"{served.url}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        families = {family.name: family for family in prometheus(await answer.text())}
    stored = [s for s in families["sentinel_events"].samples if s.labels.get("outcome") == "stored"]
    assert [sample.value for sample in stored] == [3]
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with client.get(f"{served.url}/metrics", headers=accept) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert "sentinel_events" in {family.name for family in openmetrics(await answer.text())}  # type: ignore[no-untyped-call]


async def test_unknown_paths_and_methods(served: Served, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{served.url}/") as answer:
        assert answer.status == 404
    async with client.post(f"{served.url}/healthz") as answer:
        assert answer.status == 405


async def test_a_port_in_use_names_the_setting(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = _server(port, served)
        with pytest.raises(ConfigurationError, match=r"metrics\.port"):
            await second.start()


async def test_an_idle_scraper_does_not_hold_up_the_stop(
    served: Served, client: aiohttp.ClientSession
) -> None:
    server = _server(0, served)
    await server.start()
    async with client.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
        assert answer.status == 200
        await answer.read()  # the connection goes back to the pool and stays open
    # The web framework by itself would wait for a minute.
    async with asyncio.timeout(30):
        await server.stop()
