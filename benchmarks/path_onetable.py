"""The one-table profile made of the product's parts: what the peers do, behind the product's own fence.

It consumes, decodes, stores one row an event (`ON CONFLICT DO NOTHING`) and commits, with the product's Kafka
source, consumer loop, offset tracker, decoder and fence, and one insert in place of the daemon's flush. Unlike
the peers it stores the offset in the transaction of the rows, so that a crash repeats nothing; like them it has
no guard, no metrics and no dead letters: a record without an event is passed over.

Its only argument is the JSON that the peers' programs get (`benchmarks/peers/programs/onetable.py`).
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import uvloop

from benchmarks.peers.programs.onetable import UNNEST
from consumers.formats import decode
from consumers.handing import LoopLimits
from consumers.kafka import KafkaSource
from consumers.loop import ConsumerLoop
from consumers.takeover import OwnedPartition
from consumers.tracker import Partition, PartitionTracker, Progress, Slot
from daemon import collector
from daemon.recorder import move_of
from sentinel.clock import SystemClock
from sentinel.errors import FatalError
from sentinel.events import PromptEvent
from sentinel.outcomes import Outcome
from sentinel.store.flush import fence

BATCH: Final = 1000
"""Rows of one insert, as in the peers' programs."""

LIMITS: Final = LoopLimits(in_flight=2 * BATCH, span=8 * BATCH)
STORED: Final = (Outcome.STORED, "")


class OneTable:
    """The loop's handler: keeps decoded events until the writer takes a batch of them."""

    def __init__(self, insert: str, connection: "asyncpg.Connection[Any]") -> None:
        self._insert = insert
        self._connection = connection
        self._pending: list[tuple[Slot, PromptEvent]] = []
        self._writing = 0
        self._arrived = asyncio.Event()
        self._written = asyncio.Event()
        self.loop: ConsumerLoop | None = None

    def handle(self, slot: Slot) -> bool:
        """Decode one record and keep its events for the next batch."""
        events = 0
        for item in decode(slot.record):
            if isinstance(item, PromptEvent):
                self._pending.append((slot, item))
                events += 1
        slot.expect(events)
        self._arrived.set()
        return False

    def room(self) -> int:
        """Events that may still be taken in."""
        return LIMITS.in_flight - len(self._pending) - self._writing

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the writer."""
        async with asyncio.timeout(timeout_s):
            while self._pending or self._writing:
                self._written.clear()
                await self._written.wait()
        return True

    async def write(self) -> None:
        """Store batches until cancelled. Raises `FatalError` when another owner has a partition."""
        while True:
            if not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._pending[:BATCH]
            del self._pending[: len(batch)]
            self._writing = len(batch)
            await self._store(batch)
            self._writing = 0
            self._written.set()
            if self.loop is not None:
                self.loop.wake()

    async def _store(self, batch: Sequence[tuple[Slot, PromptEvent]]) -> None:
        for slot, _ in batch:
            slot.in_flush += 1
        plans = {tracker: tracker.plan() for tracker in {slot.tracker: None for slot, _ in batch}}
        async with self._connection.transaction():
            await self._move(plans)
            await self._connection.execute(self._insert, *_columns([event for _, event in batch]))
        for slot, _ in batch:
            if slot.record.offset >= plans[slot.tracker].next_offset:
                slot.settle(STORED)
        for tracker, progress in plans.items():
            tracker.advance(progress)

    async def _move(self, plans: Mapping[PartitionTracker, Progress]) -> None:
        moves = [move_of(tracker, progress) for tracker, progress in plans.items()]
        if len(await fence(self._connection, moves)) < len(moves):
            raise FatalError("a move was repeated although nothing here repeats one")


def _columns(events: Sequence[PromptEvent]) -> tuple[list[object], ...]:
    return (
        [e.event_id for e in events],
        [e.event_time for e in events],
        [e.source for e in events],
        [e.tenant for e in events],
        [e.model for e in events],
        [e.messages[-1].text for e in events],
        [e.response for e in events],
    )


class Silent:
    """An observer of the loop that counts nothing."""

    def partition(self, tracker: OwnedPartition, lag: int | None) -> None:
        """Ignore it."""

    def gap(self, partition: Partition, records: int) -> None:
        """Ignore it."""

    def rebalance(self, drain_s: float, partitions: int) -> None:
        """Ignore it."""

    def committed(self, partitions: int, *, ok: bool) -> None:
        """Ignore it."""

    def assigned(self, partitions: int, ready: int) -> None:
        """Ignore it."""

    def records(self, number: int) -> None:
        """Ignore it."""

    def halted(self, partition: Partition, reason: str | None) -> None:
        """Ignore it."""

    def unassigned(self, partition: Partition) -> None:
        """Ignore it."""

    def away(self, target: str) -> None:
        """Ignore it."""

    def phase(self, name: str, seconds: float) -> None:
        """Ignore it."""


async def run(at: Mapping[str, Any]) -> None:
    """Consume until killed."""
    where = {name: at[name] for name in ("host", "port", "user", "password", "database")}

    @asynccontextmanager
    async def connect() -> AsyncIterator["asyncpg.Connection[Any]"]:
        # The loop asks now and then, the writer all the time: it has a connection of its own.
        connection = await asyncpg.connect(**where)
        try:
            yield connection
        finally:
            await connection.close()

    handler = OneTable(UNNEST.format(table=at["table"]), await asyncpg.connect(**where))
    handler.loop = ConsumerLoop(
        KafkaSource([at["topic"]], {"bootstrap_servers": at["bootstrap"], "group_id": at["group"]}),
        handler,
        connect=connect,
        limits=LIMITS,
        owner=f"benchmark:{os.getpid()}",
        group_id=at["group"],
        start="earliest",
        observer=Silent(),
        clock=SystemClock(),
        tick=lambda: None,
    )
    collector.calm()
    await asyncio.gather(handler.loop.run(), handler.write())


if __name__ == "__main__":
    uvloop.run(run(json.loads(sys.argv[1])))
