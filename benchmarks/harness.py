"""Measure a program that turns events on a topic into rows in Postgres.

One repetition, the same for every program, so that start-up, imports and the joining of the group cost nobody
anything:

1. A fresh topic, table and group; the program starts and stores a few hundred warm-up events.
2. The program is frozen (SIGSTOP), and N events are laid on the topic.
3. Processor time of program and Postgres is read, the program is thawed, the clock starts.
4. The clock stops when the N-th row is visible; processor time is read again.
5. The program must then commit exactly the end of the log, and the table must hold exactly the events sent.

Wall time depends on what else the machine does; processor time per event hardly does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from benchmarks.processes import Program, cpu_seconds
from benchmarks.report import Result, summarize

LEAST_PAUSE = 0.02
"""Seconds between two counts near the end: the error of the clock that stops at the last row."""

MOST_PAUSE = 0.5
"""Seconds between two counts far from the end."""


class BenchmarkError(RuntimeError):
    """A program was too slow, lost events or wrote some twice: its figures would mean nothing."""


class Counter(Protocol):
    """Whatever tells how many events are stored; may be called about fifty times a second."""

    async def __call__(self) -> int:
        """The number of events stored so far."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition: `events` stored in `seconds`, with the processor seconds that it took."""

    events: int
    seconds: float
    program_cpu: float
    postgres_cpu: float

    @property
    def events_per_second(self) -> float:
        """Throughput by the wall clock."""
        return self.events / self.seconds

    @property
    def program_us_per_event(self) -> float:
        """Processor microseconds of the program's process tree per event."""
        return self.program_cpu / self.events * 1e6

    @property
    def postgres_us_per_event(self) -> float:
        """Processor microseconds of all Postgres processes per event, the measuring connection left out."""
        return self.postgres_cpu / self.events * 1e6


class Ledger(Protocol):
    """What the harness asks of the database that a program writes to."""

    async def settle(self) -> None:
        """Finish what earlier writes left to be done later, so that it costs nobody's window."""
        ...

    def cpu_seconds(self) -> float:
        """Processor seconds of all the database's processes so far, the measuring connection left out."""
        ...


class PostgresLedger:
    """A connection that counts rows, and whose own processor time is kept out of the figures."""

    def __init__(self, connection: "asyncpg.Connection[Any]", postmaster_pid: int) -> None:
        self.connection = connection
        self._postmaster_pid = postmaster_pid
        self._without = frozenset({connection.get_server_pid()})

    def counter(self, table: str) -> Counter:
        """Counts the rows of `table`, a trusted identifier."""
        query = f"SELECT count(*) FROM {table}"  # noqa: S608 - a name made by the benchmark itself

        async def count() -> int:
            return int(await self.connection.fetchval(query))

        return count

    async def settle(self) -> None:
        """Write a checkpoint."""
        await self.connection.execute("CHECKPOINT")

    def cpu_seconds(self) -> float:
        """Processor seconds of the postmaster and all its processes so far."""
        return cpu_seconds(self._postmaster_pid, self._without)


async def reach(count: Counter, target: int, timeout: float, check: Callable[[], None]) -> int:
    """Wait until at least `target` events are counted; returns the count.

    Counts rarely while the end is far and often when it is near, since a count over many rows takes time from
    the program under measurement. `check` raises when there is nothing left to wait for. Raises
    `BenchmarkError` after `timeout` seconds.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    base: int | None = None
    while True:
        stored = await count()
        now = clock()
        if stored >= target:
            return stored
        check()
        if now - began > timeout:
            raise BenchmarkError(f"{stored} of {target} events after {timeout:.0f} s")
        base = stored if base is None else base
        done = stored - base
        left = (target - stored) * (now - began) / done if done else 0.0
        await asyncio.sleep(min(max(left * 0.5, LEAST_PAUSE), MOST_PAUSE))


async def measure(
    program: Program,
    ledger: Ledger,
    count: Counter,
    produce: Callable[[int], Awaitable[None]],
    *,
    events: int,
    warmup: int,
    timeout: float,
) -> Sample:
    """Run one repetition (steps 1 to 4 above) of a program that has just been started.

    `produce(n)` lays `n` further events on the topic and returns when the broker has them. Raises
    `BenchmarkError` on a time-out and `ProgramDiedError` when the program ends.
    """
    clock = asyncio.get_running_loop().time
    base = await count()
    await produce(warmup)
    base = await reach(count, base + warmup, timeout, program.check)
    # Let the warm-up's last offset commit and checkpoint pass outside the window.
    await asyncio.sleep(0.5)
    program.freeze()
    await produce(events)
    await ledger.settle()
    program_cpu, postgres_cpu = program.cpu_seconds(), ledger.cpu_seconds()
    began = clock()
    program.thaw()
    stored = await reach(count, base + events, timeout, program.check)
    seconds = clock() - began
    sample = Sample(
        events=events,
        seconds=seconds,
        program_cpu=program.cpu_seconds() - program_cpu,
        postgres_cpu=ledger.cpu_seconds() - postgres_cpu,
    )
    if stored != base + events:
        raise BenchmarkError(f"{program.name} stored {stored - base} rows for {events} events")
    return sample


def results(case: str, samples: Sequence[Sample]) -> list[Result]:
    """The three figures of a case: throughput, and processor time of the program and of Postgres."""
    return [
        summarize(case, "throughput", "events/s", [s.events_per_second for s in samples]),
        summarize(case, "program_cpu", "us/event", [s.program_us_per_event for s in samples]),
        summarize(case, "postgres_cpu", "us/event", [s.postgres_us_per_event for s in samples]),
    ]
