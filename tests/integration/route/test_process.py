"""``sentinel route`` as a process: start, graceful stop, exit statuses, LiteLLM's configuration, its unit."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from producers.route.app import _PUBLISH_STOP_S
from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.scripted_model import MODEL, SAFE_ANSWER, ScriptedModel
from sentinel.errors import EX_CONFIG
from sentinel.resources import data_path
from sentinel.settings import Settings
from tests.integration.route.conftest import ADAPTER, PUBLIC, SERVED
from tests.support.brokers import Embedded
from tests.support.daemon_process import SENTINEL, DaemonProcess, environment
from tests.support.promotions import promote
from tests.support.waiting import wait_until

PORTS = ReservedPort(), ReservedPort()
"""The process binds them seconds later: nobody may have them meanwhile."""


def flags(replicas: list[str], url: str, folder: Path, **more: str) -> dict[str, str]:
    served = {SERVED: {"public_name": PUBLIC, "base": MODEL, "replicas": replicas}}
    return {
        "served_models": json.dumps(served),
        "database.url": url,
        "route.port": str(PORTS[0].number),
        "route.metrics_port": str(PORTS[1].number),
        "route.spool_dir": str(folder / "spool"),
        "logging.format": "json",
        **more,
    }


@pytest.fixture
async def replica() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(obeys="safe") as server:
        yield server


@pytest.fixture
def processes() -> Iterator[list[DaemonProcess]]:
    started: list[DaemonProcess] = []
    yield started
    for process in started:
        process.end()


async def test_a_stop_lets_streams_end_and_events_leave(
    replica: ScriptedModel,
    database_url: str,
    embedded_broker: Embedded,
    tmp_path: Path,
    processes: list[DaemonProcess],
) -> None:
    replica.pace = 0.15
    topic = embedded_broker.create_topic(partitions=1)
    more = {"kafka.bootstrap_servers": embedded_broker.bootstrap, "kafka.topics": topic}
    settings = flags([replica.url], database_url, tmp_path, **more)
    process = DaemonProcess(settings, tmp_path / "run", command="route")
    processes.append(process)
    await process.until("READY=1")
    url = f"http://127.0.0.1:{settings['route.port']}"
    body = {"model": PUBLIC, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with aiohttp.ClientSession() as client:
        async with client.get(f"http://127.0.0.1:{settings['route.metrics_port']}/metrics") as scrape:
            text = await scrape.text()
        assert 'sentinel_route_replica_up{replica="' + replica.url + '"} 1.0' in text
        async with client.get(f"http://127.0.0.1:{settings['route.metrics_port']}/readyz") as ready:
            assert ready.status == 200
        async with client.post(f"{url}/v1/chat/completions", json=body) as reply:
            await reply.content.readany()
            process.signal()
            await process.until("STOPPING=1")
            rest = await reply.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.post(f"{url}/v1/chat/completions", json=body)
    assert await process.wait() == 0
    assert "WATCHDOG=1" in process.notify.messages
    await wait_until(lambda: embedded_broker.client.end_offsets(topic, 1)[0] == 1, 60)
    assert SAFE_ANSWER not in process.output


async def test_a_second_signal_ends_it_at_once(
    replica: ScriptedModel, database_url: str, tmp_path: Path, processes: list[DaemonProcess]
) -> None:
    replica.set_faults(hang_rate=1.0)
    settings = flags([replica.url], database_url, tmp_path, **{"route.publish": "false"})
    process = DaemonProcess(settings, tmp_path / "run", command="route")
    processes.append(process)
    await process.until("READY=1")
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{settings['route.port']}/v1/chat/completions"
        call = asyncio.create_task(client.post(url, json={"model": PUBLIC}))
        await wait_until(lambda: replica.stats.in_flight)
        process.signal()
        await process.until("STOPPING=1")
        process.signal()
        # The call would keep it for `route.drain_s`.
        assert await process.wait(25) == 128 + signal.SIGTERM
        with pytest.raises(aiohttp.ClientError):
            await call


async def run(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SENTINEL, "route", *arguments],
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return await asyncio.to_thread(call)


async def test_wrong_settings_end_with_78(database_url: str, tmp_path: Path) -> None:
    settings = flags([], database_url, tmp_path)
    result = await run(settings)
    assert (result.returncode, "served_models" in result.stderr) == (EX_CONFIG, True)
    with_port = flags(["http://127.0.0.1:1"], database_url, tmp_path, **{"route.publish": "false"})
    holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with holder:
        with_port["route.port"] = str(holder.sockets[0].getsockname()[1])
        result = await run(with_port)
    assert (result.returncode, "route.port" in result.stderr) == (EX_CONFIG, True)


async def test_the_mapping_for_litellm(database_url: str, tmp_path: Path) -> None:
    settings = flags(["http://a:1", "http://b:2/"], database_url, tmp_path)
    await promote(database_url, SERVED, ADAPTER)
    result = await run(settings, "--litellm-config")
    assert result.returncode == 0, result.stderr
    deployments = yaml.safe_load(result.stdout)["model_list"]
    assert [(entry["model_name"], entry["litellm_params"]) for entry in deployments] == [
        (PUBLIC, {"model": f"hosted_vllm/{ADAPTER}", "api_base": f"{base}/v1", "api_key": "none"})
        for base in ("http://a:1", "http://b:2")
    ]
    file = tmp_path / "litellm.yaml"
    await promote(database_url, SERVED, None, action="rollback")
    result = await run(settings, "--litellm-config", "--output", str(file))
    assert result.returncode == 0, result.stderr
    assert f"hosted_vllm/{MODEL}" in file.read_text()
    away = await run(
        settings | {"database.url": "postgresql+asyncpg://nobody@127.0.0.1:1/none"}, "--litellm-config"
    )
    assert away.returncode == 2
    assert away.stdout == ""


def test_the_unit_waits_for_the_whole_stop() -> None:
    unit = data_path("configs", "systemd", "sentinel-route.service").read_text()
    (limit,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("TimeoutStopSec=")]
    assert Settings().route.drain_s + _PUBLISH_STOP_S + 10 <= float(limit)
