"""The daemon and its guard as processes: `sentinel run` with a configuration file, on a topic of its own."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import yaml

from benchmarks.harness import BenchmarkError, Counter, PostgresLedger, Sample, measure, reach
from benchmarks.load import Load
from benchmarks.processes import Program
from benchmarks.stack import Stack
from sentinel.embedded.scripted_guard import MODEL
from sentinel.settings import Consumer
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import migrate

IN_FLIGHT: Final[int] = Consumer().in_flight
PARTITIONS: Final = 4
START_TIMEOUT: Final = 60.0
STORED: Final = "SELECT coalesce(sum(n), 0)::bigint FROM partition_outcomes WHERE outcome = 'stored'"
"""Grows in the transaction that writes the rows; counting the rows themselves would load the database."""

TABLES: Final = {"event_keys": 1, "interactions": 1, "interaction_texts": 1, "verdicts": 2}
"""Rows that one scored event leaves in each table."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, its log, and what counts the events that it stored."""

    program: Program
    topic: str
    load: Load
    ledger: PostgresLedger

    async def stored(self) -> int:
        """Events stored and passed so far."""
        return int(await self.ledger.connection.fetchval(STORED))

    async def produce(self, events: int) -> None:
        """Lay events on the topic."""
        await self.load.produce(self.topic, events)

    async def expect_rows(self) -> int:
        """The number of stored events; `BenchmarkError` unless every table holds exactly their rows."""
        stored = await self.stored()
        for table, each in TABLES.items():
            rows = await self.ledger.connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
            if rows != stored * each:
                raise BenchmarkError(f"{table} holds {rows} rows for {stored} events")
        return stored


@contextlib.asynccontextmanager
async def guard_process(folder: Path, low: float, high: float) -> AsyncIterator[str]:
    """The address of a scripted guard whose answers take ``low`` to ``high`` seconds, in a process of its own."""
    command = [sys.executable, "-m", "sentinel.embedded.scripted_guard", "--latency", f"{low}:{high}"]
    async with Program("guard", command, folder / f"guard-{secrets.token_hex(4)}.log") as guard:
        for _ in range(300):
            guard.check()
            # A line may be written in two pieces: only a whole one is an address.
            if "\n" in (said := guard.log.read_text()):
                yield said.split()[0]
                return
            await asyncio.sleep(0.05)
        raise BenchmarkError(f"the guard did not start: {guard.tail()}")


@contextlib.asynccontextmanager
async def daemon(
    stack: Stack,
    folder: Path,
    guard_url: str,
    *,
    seed: int = 0,
    changes: Mapping[str, Mapping[str, Any]] = {},
) -> AsyncIterator[Daemon]:
    """A daemon on a fresh topic, group and database; ``changes`` are merged into its settings by section.

    Everything that is not an address keeps the product's default.
    """
    name = f"bench_{secrets.token_hex(4)}"
    load = stack.load(seed)
    await load.create_topic(name, PARTITIONS)
    url = await _create_database(stack, name)
    settings: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap_servers": [stack.bootstrap], "topics": [name], "group_id": name},
        "database": {"url": url},
        "guard": {"base_url": guard_url, "name": MODEL},
        "metrics": {"port": 0},
    }
    for section, values in changes.items():
        settings.setdefault(section, {}).update(values)
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [str(Path(sys.executable).with_name("sentinel")), "run", "--config", str(config)]
    connection = await asyncpg.connect(
        libpq_url(url), server_settings={"max_parallel_workers_per_gather": "0"}
    )
    try:
        ledger = PostgresLedger(connection, stack.postgres_pid)
        async with Program("sentinel", command, folder / f"{name}.log", cwd=folder, grace=60) as program:
            yield Daemon(program, name, load, ledger)
    finally:
        await connection.close()
    await load.delete_topic(name)
    await _drop_database(stack, name)


async def run_once(stack: Stack, folder: Path, *, events: int, warmup: int, seed: int) -> Sample:
    """One repetition with a guard that answers at once. Raises as `harness.measure` does."""
    async with (
        guard_process(folder, 0, 0) as guard_url,
        daemon(stack, folder, guard_url, seed=seed) as running,
    ):
        sample = await measure(
            running.program,
            running.ledger,
            running.stored,
            running.produce,
            events=events,
            warmup=warmup,
            timeout=START_TIMEOUT + events / 200,
        )
        await _expect_commit(running)
        await running.expect_rows()
    return sample


async def run_slow(
    stack: Stack, folder: Path, *, low: float, high: float, seconds: float, seed: int
) -> Sample:
    """The steady state before a guard whose answers take ``low`` to ``high`` seconds, uniformly drawn.

    The clock runs while the window is full: the first answers come after the latency, and the last ones drain.
    """
    rate = IN_FLIGHT / ((low + high) / 2)
    events = round(rate * seconds)
    async with (
        guard_process(folder, low, high) as guard_url,
        daemon(stack, folder, guard_url, seed=seed) as run,
    ):
        # What lies beyond the measured events keeps the window full to the end of the clock.
        await run.produce(round(rate * (seconds + 6)))
        timeout = START_TIMEOUT + seconds * 4
        started = await reach(run.stored, round(rate * 2), timeout, run.program.check)
        program_cpu, postgres_cpu = run.program.cpu_seconds(), run.ledger.cpu_seconds()
        began = asyncio.get_running_loop().time()
        stored = await reach(run.stored, started + events, timeout, run.program.check)
        sample = Sample(
            events=stored - started,
            seconds=asyncio.get_running_loop().time() - began,
            program_cpu=run.program.cpu_seconds() - program_cpu,
            postgres_cpu=run.ledger.cpu_seconds() - postgres_cpu,
        )
        await _settled(run.stored, run.program.check)
        await run.expect_rows()
    return sample


async def _settled(count: Counter, check: Callable[[], None]) -> None:
    """Wait until nothing more is stored."""
    before = -1
    while (now := await count()) != before:
        check()
        before = now
        await asyncio.sleep(2.0)


async def _expect_commit(running: Daemon) -> None:
    """Wait until the group has committed the whole topic; `BenchmarkError` when it does not."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + 60
    while True:
        committed, written = await running.load.committed(running.topic, running.topic)
        if committed == written:
            return
        if clock() > deadline:
            raise BenchmarkError(f"the group committed {committed} of {written} records")
        await asyncio.sleep(0.2)


async def _create_database(stack: Stack, name: str) -> str:
    await _administer(stack, f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(stack.postgres.url)._replace(path=f"/{name}"))
    await migrate(url)
    return url


async def _drop_database(stack: Stack, name: str) -> None:
    await _administer(stack, f"DROP DATABASE {name} WITH (FORCE)")


async def _administer(stack: Stack, statement: str) -> None:
    connection = await asyncpg.connect(stack.dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
