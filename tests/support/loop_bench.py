"""The consumer loop over a log and a store in memory, with hands that write when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from consumers.flood import FloodLimits
from consumers.handing import LoopLimits
from consumers.loop import ConsumerLoop
from consumers.takeover import OwnedPartition
from consumers.tracker import Partition, Slot
from sentinel.clock import SystemClock
from sentinel.outcomes import Outcome
from tests.support.memory import MemorySource, MemoryStore, log_record
from tests.support.waiting import wait_until

A, B, C = (Partition("t", n) for n in range(3))
BAD = b"bad"


class Hands:
    """A handler that keeps what it is handed until told to write it."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.open: list[Slot] = []
        self.limit = 1000
        self.weight = 1
        """Items of each record."""
        self.writes_at_once = True
        self.drains = 0
        self.drain_hook: Callable[[], None] | None = None

    def handle(self, slot: Slot) -> bool:
        assert slot.tracker.alive
        slot.expect(self.weight)
        self.slots.append(slot)
        self.open.append(slot)
        if self.writes_at_once:
            self.write()
        return slot.record.value == BAD

    def write(self) -> None:
        trackers = dict.fromkeys(slot.tracker for slot in self.open)
        for slot in self.open:
            slot.in_flush += slot.waiting
            for _ in range(slot.waiting):
                slot.settle((Outcome.STORED, ""))
        self.open.clear()
        for tracker in trackers:
            tracker.advance(tracker.plan())

    def room(self) -> int:
        return self.limit - sum(slot.waiting for slot in self.open)

    async def drain(self, timeout_s: float) -> bool:
        self.drains += 1
        if self.drain_hook:
            self.drain_hook()
        await asyncio.sleep(0)
        self.write()
        return True

    def offsets(self, partition: Partition) -> list[int]:
        return [s.record.offset for s in self.slots if s.tracker.partition == partition]


class Notes:
    """An observer that remembers what tests look at."""

    def __init__(self) -> None:
        self.halts: list[tuple[Partition, str | None]] = []
        self.gaps: list[tuple[Partition, int]] = []
        self.commits: list[bool] = []
        self.phases: set[str] = set()
        self.waits: list[str] = []
        """Dependencies that the loop began to wait for, with "" where it goes on."""

    def partition(self, tracker: OwnedPartition, lag: int | None) -> None: ...
    def gap(self, partition: Partition, records: int) -> None:
        self.gaps.append((partition, records))

    def rebalance(self, drain_s: float, partitions: int) -> None: ...
    def committed(self, partitions: int, *, ok: bool) -> None:
        self.commits.append(ok)

    def assigned(self, partitions: int, ready: int) -> None: ...
    def records(self, number: int) -> None: ...
    def halted(self, partition: Partition, reason: str | None) -> None:
        self.halts.append((partition, reason))

    def unassigned(self, partition: Partition) -> None: ...
    def away(self, target: str) -> None:
        self.waits.append(target)

    def phase(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.phases.add(name)


class Bench:
    def __init__(self, logs: dict[Partition, int], **limits: object) -> None:
        self.source = MemorySource({p: [log_record(o) for o in range(n)] for p, n in logs.items()})
        self.store = MemoryStore()
        self.hands, self.notes = Hands(), Notes()
        defaults: dict[str, object] = {
            "in_flight": 1000,
            "span": 1000,
            "poll_timeout_s": 0.01,
            "commit_interval_s": 0.01,
            "halt_check_s": 0.01,
            "flood": FloodLimits(ratio=0.9, window=50, consecutive=5),
        }
        self.ticks = 0
        self.loop = ConsumerLoop(
            self.source,
            self.hands,
            connect=self.store.connect,
            limits=LoopLimits(**{**defaults, **limits}),  # type: ignore[arg-type]
            owner="me",
            group_id="g",
            start="earliest",
            observer=self.notes,
            clock=SystemClock(),
            tick=self._tick,
        )

    def _tick(self) -> None:
        self.ticks += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.loop.run())
        try:
            yield task
            self.loop.stop()
            await asyncio.wait_for(task, 60)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def handed(self, number: int) -> None:
        await wait_until(lambda: len(self.hands.slots) >= number, timeout=60, interval=0.002)

    async def turns(self, number: int = 5) -> None:
        """Let the loop go round a few times."""
        target = self.ticks + number
        await wait_until(lambda: self.ticks >= target, timeout=60, interval=0.002)
