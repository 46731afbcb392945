"""The real recorder over a partition that a test hands records out of; nothing polls, nothing scores."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from consumers.tracker import Partition, PartitionTracker, Slot
from daemon.recorder import Recorder, RecorderLimits
from sentinel.announcements import announce_dead_letter, announce_interaction
from sentinel.clock import SystemClock
from sentinel.events import RawRecord
from sentinel.interactions import Recordable
from sentinel.store.flush import Entry, Flushed
from tests.support.recordings import NOW, OUTPUT, TOPIC

if TYPE_CHECKING:
    import asyncpg

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]


class DayClock(SystemClock):
    """Real durations on a day that does not end."""

    def __init__(self, now: dt.datetime = NOW) -> None:
        self.today = now

    def now(self) -> dt.datetime:
        return self.today


class RecorderBench:
    """`hand_out` gives slots, `recorder.put` takes their items."""

    def __init__(
        self,
        connect: Connect,
        create_partition: Callable[[dt.date], Any] | None = None,
        **limits: Any,
    ) -> None:
        self.clock = DayClock()
        self.results: list[Flushed] = []
        self.lost: list[tuple[str, int]] = []
        self.available: list[bool] = []
        self.retries: list[str] = []
        self.days: list[dt.date] = []
        self.ticks = 0
        self._create = create_partition
        self.trackers: list[PartitionTracker] = []
        self.recorder = Recorder(
            connect,
            limits=RecorderLimits(
                **{
                    "flush_rows": 100,
                    "flush_interval_s": 0.005,
                    "retry_s": 0.001,
                    "outage_retry_s": 0.005,
                    **limits,
                }
            ),
            announce=lambda new, at: announce_interaction(new, at, OUTPUT),
            dead_letter_rows=lambda dead: announce_dead_letter(dead, NOW, code_version="1"),
            create_partition=self._make_day,
            fenced=self._fenced,
            wrote=self.results.append,
            observer=self,
            clock=self.clock,
            tick=self._tick,
            code_version="1",
        )

    # -- what the recorder reports

    def flushed(self, result: Flushed, entries: Sequence[Entry], seconds: float, now: dt.datetime) -> None:
        assert len(result.outcomes) == len(entries)

    def database(self, *, available: bool) -> None:
        self.available.append(available)

    def retried(self, reason: str) -> None:
        self.retries.append(reason)

    def _fenced(self, partitions: Iterable[tuple[str, int]]) -> None:
        for found in partitions:
            self.lost.append(found)
            for tracker in self.trackers:
                if tracker.partition == found:
                    tracker.drop()

    def _tick(self) -> None:
        self.ticks += 1

    async def _make_day(self, day: dt.date) -> None:
        self.days.append(day)
        if self._create is not None:
            await self._create(day)

    # -- what a test does

    def tracker(self, *, epoch: int = 1, next_offset: int = 0, partition: int = 0) -> PartitionTracker:
        made = PartitionTracker(
            Partition(TOPIC, partition), epoch=epoch, incarnation=0, next_offset=next_offset
        )
        self.trackers.append(made)
        return made

    def hand_out(self, tracker: PartitionTracker, offset: int, items: int = 1) -> Slot:
        slot = tracker.begin(RawRecord(TOPIC, tracker.partition.partition, offset, 5, None, b"{}"))
        slot.expect(items)
        return slot

    def put_all(self, tracker: PartitionTracker, items: Sequence[Recordable]) -> None:
        """One record for each item, at the offsets that follow."""
        first = tracker.next_offset + tracker.span
        for offset, item in enumerate(items, first):
            self.recorder.put(self.hand_out(tracker, offset), item)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.recorder.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
