"""The Kafka and the Postgres that benchmarks run on, started for the run."""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.harness import PostgresLedger
from benchmarks.load import Load
from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.store.engine import libpq_url
from tests.support.kafka_server import KafkaServer, why_no_kafka


@dataclass(frozen=True, slots=True)
class Stack:
    """A broker, and a database on this machine whose processor time can be read."""

    bootstrap: str
    postgres: EmbeddedPostgres

    def load(self, seed: int = 0) -> Load:
        """A source of events for this broker."""
        return Load(self.bootstrap, seed)

    @property
    def dsn(self) -> str:
        """The database as asyncpg and libpq write it."""
        return libpq_url(self.postgres.url)

    @property
    def postgres_pid(self) -> int:
        """The postmaster's process id; `RuntimeError` when it does not run."""
        pid = self.postgres.pid
        if pid is None:
            raise RuntimeError("the benchmark's Postgres does not run")
        return pid

    @contextlib.asynccontextmanager
    async def ledger(self) -> AsyncIterator[PostgresLedger]:
        """A counting connection, closed at the end."""
        # A parallel worker of a count would be a process of its own and be booked to the program.
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            self.dsn, server_settings={"max_parallel_workers_per_gather": "0"}
        )
        try:
            yield PostgresLedger(connection, self.postgres_pid)
        finally:
            await connection.close()


def add_stack_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller name a broker that already runs."""
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a running broker (default: start one)")


@contextlib.asynccontextmanager
async def open_stack(options: argparse.Namespace) -> AsyncIterator[Stack]:
    """Start what the options do not name, and stop it at the end.

    Postgres keeps its defaults, durability included: a commit waits for the disk as it would in service.
    Raises `SystemExit` with the remedy when no broker is named and none can be started.
    """
    reason = None if options.kafka else why_no_kafka()
    if reason:
        raise SystemExit(f"{reason}; or name a running broker with --kafka")
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sentinel-bench-")))
        # Postgres drops root's rights and must still reach its folder.
        folder.chmod(0o755)
        postgres = await stack.enter_async_context(EmbeddedPostgres(folder / "postgres"))
        bootstrap: str | None = options.kafka
        if bootstrap is None:
            kafka = KafkaServer(folder / "kafka")
            stack.callback(kafka.kill)
            await asyncio.to_thread(kafka.start)
            bootstrap = kafka.bootstrap
        yield Stack(bootstrap, postgres)
