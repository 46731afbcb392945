"""``sentinel embedded`` as its user sees it: parts that answer, come back after a crash, and end with it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import psutil
import pytest

from sentinel.clock import SystemClock
from sentinel.embedded.stack import BASE_NAME, GUARD_NAME, SERVED_MODEL, TOPIC
from sentinel.events import Message
from sentinel.guards.base import GuardRequest
from sentinel.guards.configured import configured_guard
from sentinel.settings import Settings, load
from sentinel.store.engine import libpq_url
from sentinel.tiny.artefacts import Model, shipped
from sentinel.verdicts import Assessment, Role
from tests.support.daemon_process import SENTINEL, environment
from tests.support.descendants import Descendants
from tests.support.kafka_client import KafkaClient
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not shipped(Model.CHAT).exists(), reason="the tiny models are not built in this checkout"
    ),
]

PARTITIONS = 3
PATIENCE_S = 250.0
POSTMASTER = "bin/postgres -D"
MODEL = f"--served-name {BASE_NAME} "
GUARD = f"--served-name {GUARD_NAME} "


class Embedded:
    """The running command."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, log: Path) -> None:
        self.process = process
        self.family = Descendants(process.pid)
        self._config = folder / "sentinel.yaml"
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    async def ready(self) -> Settings:
        """Wait until it says how to go on; the settings that it wrote for that."""

        def said() -> bool:
            assert self.process.returncode is None, self.output
            return "now run" in self.output

        await wait_until(said, PATIENCE_S, interval=0.2)
        assert f"sentinel --config {self._config} run" in " ".join(self.output.split())
        return load(self._config, environ={}).settings

    def part(self, name: str) -> psutil.Process:
        """The one process of that part."""
        (found,) = self.family.children(name)
        return found


@asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[Embedded]:
    log = folder.with_suffix(".log")
    command: list[str | Path] = [SENTINEL, "embedded", f"--folder={folder}", f"--partitions={PARTITIONS}"]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment({}), stdout=output, stderr=asyncio.subprocess.STDOUT
        )
    try:
        yield Embedded(process, folder, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ask_model(settings: Settings) -> str:
    """What the served model answers; empty where it does not."""
    (url,) = settings.served_models[SERVED_MODEL].replicas
    question = {"model": BASE_NAME, "messages": [{"role": "user", "content": "How do I bake bread?"}]}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client,
            client.post(f"{str(url).rstrip('/')}/v1/chat/completions", json=question) as answer,
        ):
            # Another status while it is loading.
            answer.raise_for_status()
            body = await answer.json()
    except (aiohttp.ClientError, TimeoutError):
        return ""
    return str(body["choices"][0]["message"]["content"])


async def _ask_guard(settings: Settings) -> None:
    guard = configured_guard(settings, SystemClock())
    await guard.start()
    try:
        request = GuardRequest(
            Role.RESPONSE, (Message("user", "How do I bake bread?"),), "Sure, here is how."
        )
        (judged,) = await guard.assess([request])
    finally:
        await guard.aclose()
    assert isinstance(judged, Assessment), judged


async def _ask_broker(settings: Settings) -> None:
    client = KafkaClient(",".join(settings.kafka.bootstrap_servers))
    try:
        topics = (await asyncio.to_thread(client.admin.list_topics, timeout=15)).topics
        assert len(topics[TOPIC].partitions) == PARTITIONS
        ((partition, offset),) = await asyncio.to_thread(client.produce, TOPIC, [b"{}"])
        ends = await asyncio.to_thread(client.end_offsets, TOPIC, PARTITIONS)
    finally:
        client.close()
    assert ends[partition] == offset + 1


async def _ask_database(settings: Settings, query: str) -> object:
    """The query's value; None while no server is there to ask."""
    try:
        conn = await asyncpg.connect(libpq_url(settings.database.url.get_secret_value()), timeout=30)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


async def test_parts_answer_come_back_and_end_with_the_command(server_folder: Path) -> None:
    async with _embedded(server_folder / "embedded") as embedded:
        settings = await embedded.ready()
        assert await _ask_model(settings)
        await _ask_guard(settings)
        await _ask_broker(settings)
        assert await _ask_database(settings, "SELECT count(*) FROM interactions") == 0
        await _ask_database(settings, "CREATE TABLE kept AS SELECT 7 AS n")

        killed = [embedded.part(POSTMASTER), embedded.part(MODEL)]
        others = [embedded.part(GUARD), embedded.part("embedded.broker")]
        for process in killed:
            process.kill()

        # What was committed is there again, on the same addresses: the settings still stand.
        assert await wait_until(lambda: _ask_database(settings, "SELECT n FROM kept"), PATIENCE_S, 0.5) == 7
        assert await wait_until(lambda: _ask_model(settings), PATIENCE_S, 0.5)
        assert embedded.part(POSTMASTER) != killed[0]
        assert embedded.part(MODEL) != killed[1]
        assert [embedded.part(GUARD), embedded.part("embedded.broker")] == others

        embedded.family.look()
        embedded.process.send_signal(signal.SIGINT)
        async with embedded.family.watched():
            assert await asyncio.wait_for(embedded.process.wait(), PATIENCE_S) == 0, embedded.output
        await embedded.family.assert_gone()
    assert "Traceback" not in embedded.output
