"""The demonstration on parts that run already: it uses them, leaves them as usable as before, and counts its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.stack import TOPIC
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import migrate
from tests.support.brokers import ApacheKafka
from tests.support.model_servers import ModelServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REQUESTS = 60
TOPICS = {"llm.events": 4, "findings": 1, "dead-letters": 1, "promotions": 1}


@pytest.fixture(scope="module")
def servers(server_folder: Path) -> Iterator[ModelServers]:
    """A served model and a guard that somebody else started."""
    with ModelServers(server_folder / "outside-models", "model", "guard") as servers:
        yield servers


@pytest.fixture
async def other_events(kafka: ApacheKafka) -> AsyncIterator[str]:
    """The topic of a service on the same Kafka, with records that are not the demonstration's."""
    made = TOPIC not in await asyncio.to_thread(_topics, kafka)
    if made:
        await asyncio.to_thread(kafka.create_topic, TOPIC, partitions=2)
    await asyncio.to_thread(kafka.produce, TOPIC, [b'{"prompt": "a", "response": "b"}'] * 25)
    yield TOPIC
    if made:
        await asyncio.to_thread(kafka.delete_topic, TOPIC)


class Ended:
    """What a demonstration left behind."""

    def __init__(self, status: int, output: str, runs: Path, seen: set[str]) -> None:
        self.status = status
        self.output = output
        self.seen = seen
        """Command lines of all processes that it had."""
        self.folders = sorted(runs.iterdir()) if runs.exists() else []

    @property
    def folder(self) -> Path:
        (found,) = self.folders
        return found

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    def started(self, part: str) -> bool:
        return any(part in line for line in self.seen)


async def _demo(runs: Path, *arguments: str, seed: int = 0) -> Ended:
    command = [sys.executable, "-m", "daemon.cli", "--set", f"runs_dir={runs}", "demo", "--no-train"]
    command += [f"--requests={REQUESTS}", "--rate=20", f"--seed={seed}", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    seen: set[str] = set()
    watching = asyncio.create_task(_watch(process.pid, seen))
    try:
        output, _ = await process.communicate()
    finally:
        watching.cancel()
        if process.returncode is None:
            # It does not outlive a test that ran out of time; what it started ends with it.
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), runs, seen)


async def _watch(pid: int, seen: set[str]) -> None:
    while True:
        try:
            for child in psutil.Process(pid).children(recursive=True):
                seen.add(" ".join(child.cmdline()))
        except psutil.Error:
            pass  # it ended while it was looked at
        await asyncio.sleep(0.2)


def _counted_its_own(ended: Ended) -> int:
    """The sums are those of this run's answers; how many there were."""
    assert ended.status == 0, ended.output
    found = ended.summary
    answered = len((ended.folder / "traffic-before.jsonl").read_bytes().splitlines())
    assert 0 < answered <= REQUESTS
    assert found["events"] == answered
    assert found["outcomes"]["stored"] == answered
    assert sum(found["outcomes"].values()) == answered
    assert found["lost"] == 0
    assert found["before"]["n_harmful"] + found["before"]["n_benign"] == answered
    assert 0 < found["findings"] <= answered
    assert 0 < found["pairs"] <= found["findings"]
    assert found["after"] is None
    assert found["promotion"]["state"] == "none"
    # Nobody should take its figures for a claim about a real model.
    assert "tiny test articles" in (ended.folder / "report.html").read_text()
    return answered


def _topics(kafka: ApacheKafka) -> dict[str, int]:
    """Topics with their numbers of partitions."""
    listed = kafka.client.admin.list_topics(timeout=15).topics
    return {name: len(topic.partitions) for name, topic in listed.items()}


def _ends(kafka: ApacheKafka, topic: str) -> dict[int, int]:
    return kafka.client.end_offsets(topic, _topics(kafka)[topic])


async def _count(url: str, table: str) -> int:
    conn = await asyncpg.connect(libpq_url(url))
    try:
        return int(await conn.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await conn.close()


@pytest.mark.kafka
async def test_every_part_from_outside(
    server_folder: Path,
    servers: ModelServers,
    kafka: ApacheKafka,
    empty_database_url: str,
    other_events: str,
) -> None:
    options = [
        f"--kafka={kafka.bootstrap}",
        f"--database-url={libpq_url(empty_database_url)}",
        f"--model-url={servers.urls['model']}/",
        f"--guard-url={servers.urls['guard']}",
    ]
    before = await asyncio.to_thread(_ends, kafka, other_events)
    ended = await _demo(server_folder / "real-one", *options)
    answered = _counted_its_own(ended)

    # Nothing was started for what was named.
    assert ended.started("daemon.cli")
    for part in ("model_server", "embedded.broker", "postgres"):
        assert not ended.started(part), part
    assert not (ended.folder / "parts" / "postgres").exists()
    assert servers.running
    await servers.healthy()

    # Its records are on topics of its own, and stay there; those of others were neither read nor written.
    own = f"sentinel-{ended.folder.name}"
    listed = await asyncio.to_thread(_topics, kafka)
    assert {name: listed.get(f"{own}.{name}") for name in TOPICS} == TOPICS
    assert sum((await asyncio.to_thread(_ends, kafka, f"{own}.llm.events")).values()) == answered
    assert sum((await asyncio.to_thread(_ends, kafka, f"{own}.findings")).values()) > 0
    assert await asyncio.to_thread(_ends, kafka, other_events) == before
    assert await _count(empty_database_url, "interactions") == answered

    # Again on the same database: refused before anything is started or made, and the first run's rows stay.
    again = await _demo(server_folder / "real-two", *options)
    assert again.status == 2, again.output
    assert "--database-url" in again.output
    assert "name an empty one" in " ".join(again.output.split())
    assert again.folders == []
    assert not again.started("daemon.cli run")
    assert await asyncio.to_thread(_topics, kafka) == listed
    assert await _count(empty_database_url, "interactions") == answered


@pytest.mark.kafka
async def test_a_second_run_on_the_same_kafka_counts_its_own(
    server_folder: Path,
    servers: ModelServers,
    kafka: ApacheKafka,
    empty_database_url: str,
) -> None:
    options = [f"--{name}-url={url}" for name, url in servers.urls.items()]
    # A schema without rows is empty too.
    await migrate(empty_database_url)
    first, second = await asyncio.gather(
        _demo(server_folder / "real-three", f"--kafka={kafka.bootstrap}", *options, seed=1),
        # At the same time: neither reads the other's records.
        _demo(
            server_folder / "real-four",
            f"--kafka={kafka.bootstrap}",
            f"--database-url={empty_database_url}",
            *options,
            seed=2,
        ),
    )
    _counted_its_own(first)
    _counted_its_own(second)
    assert (first.folder / "parts" / "postgres").exists()
    assert servers.running


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--kafka=127.0.0.1:{port}", "no broker at"),
        ("--kafka=not an address", "HOST:PORT"),
        ("--database-url=postgresql://nobody@127.0.0.1:{port}/none", "cannot be opened"),
        ("--database-url=mysql://root@127.0.0.1/none", "postgresql://"),
        ("--model-url=http://127.0.0.1:{port}", "nothing answers"),
        ("--guard-url=nowhere", "write http://HOST:PORT"),
        ("--guard-url={model}", "serves tiny-chat, not 'tiny-guard'"),
        ("--model-url={model}/v1", "without /v1"),
    ],
)
async def test_what_cannot_be_used_is_named_at_once(
    server_folder: Path, servers: ModelServers, option: str, remedy: str
) -> None:
    runs = server_folder / "real-refused"
    with ReservedPort() as nobody:
        ended = await _demo(runs, option.format(port=nobody.number, model=servers.urls["model"]))
    assert ended.status == 2, ended.output
    said = " ".join(ended.output.split())
    assert option.partition("=")[0] in said
    assert remedy in said
    assert ended.folders == []
