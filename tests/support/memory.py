"""A log and a store in memory, for tests of the consumer loop that open no connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from consumers.file import FileRecord
from consumers.source import Assigned, Bounds, LogRecord, PositionLostError, Revoked
from consumers.tracker import Partition
from sentinel.errors import FatalError, UnavailableError

if TYPE_CHECKING:
    import asyncpg


def log_record(offset: int, value: bytes | None = b"{}", *, timestamp: int | None = None) -> FileRecord:
    """A record whose timestamp tells it apart from others, where none is given."""
    return FileRecord(offset, 1000 + offset if timestamp is None else timestamp, value)


class MemorySource:
    """A partitioned log of one group member. Rebalances, outages and lost positions happen when told to."""

    def __init__(self, logs: Mapping[Partition, Iterable[LogRecord]], *, cluster: str = "memory") -> None:
        self.logs = {partition: list(records) for partition, records in logs.items()}
        self.beginnings: dict[Partition, int] = {}
        self.positions: dict[Partition, int] = {}
        self.assigned: frozenset[Partition] = frozenset()
        self.polled: list[tuple[tuple[Partition, ...], int]] = []
        """Partitions and ``max_records`` of every poll."""
        self.commits: list[dict[Partition, int]] = []
        self.keepalives = 0
        self.commits_fail = False
        self.finite = False
        self.away: UnavailableError | None = None
        self.hold = asyncio.Event()
        """Cleared: polls that have taken their records wait before they return them."""
        self.hold.set()
        self.holding = asyncio.Event()
        self._cluster = cluster
        self._revoked: Revoked | None = None
        self._assign: Assigned | None = None

    @property
    def cluster_id(self) -> str:
        return self._cluster

    @property
    def exhausted(self) -> bool:
        return self.finite and all(self.positions.get(p, 0) >= self._end(p) for p in self.logs)

    def _end(self, partition: Partition) -> int:
        records = self.logs[partition]
        return records[-1].offset + 1 if records else self.beginnings.get(partition, 0)

    async def start(self, revoked: Revoked, assigned: Assigned) -> None:
        self._raise_outage()
        self._revoked, self._assign = revoked, assigned
        await self.rebalance(self.logs)

    async def rebalance(self, partitions: Iterable[Partition]) -> None:
        """Take all partitions away, then give these."""
        assert self._revoked is not None
        assert self._assign is not None
        if self.assigned:
            await self._revoked(self.assigned)
        self.assigned = frozenset(partitions)
        self.positions.clear()
        self._assign(self.assigned)

    async def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        self._raise_outage()
        await asyncio.sleep(0)
        return {p: Bounds(self.beginnings.get(p, 0), self._end(p)) for p in partitions}

    def seek(self, partition: Partition, offset: int) -> bool:
        if partition not in self.assigned:
            return False
        self.positions[partition] = offset
        return True

    async def poll(
        self, partitions: Sequence[Partition], *, max_records: int, timeout_s: float
    ) -> Mapping[Partition, Sequence[LogRecord]]:
        assert partitions, "an empty list would mean all partitions"
        self.polled.append((tuple(partitions), max_records))
        self._raise_outage()
        unsought = [p for p in partitions if p not in self.positions]
        if unsought:
            raise PositionLostError(unsought)
        out: dict[Partition, Sequence[LogRecord]] = {}
        left = max_records
        for partition in partitions:
            position = self.positions[partition]
            found = [r for r in self.logs[partition] if r.offset >= position][:left]
            if found:
                out[partition] = found
                self.positions[partition] = found[-1].offset + 1
                left -= len(found)
        if not self.hold.is_set():
            self.holding.set()
            await self.hold.wait()
        await asyncio.sleep(0 if out else min(timeout_s, 0.005))
        return out

    async def keepalive(self, timeout_s: float) -> None:
        self.keepalives += 1
        await asyncio.sleep(min(timeout_s, 0.001))

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        if self.commits_fail:
            return False
        self.commits.append(dict(offsets))
        return True

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        return self._end(partition) - next_offset

    async def stop(self) -> None:
        self.assigned = frozenset()
        self.positions.clear()

    def _raise_outage(self) -> None:
        if self.away is not None:
            raise self.away


@dataclass
class StoredPosition:
    """One row of ``consumer_offsets``."""

    cluster_id: str
    next_offset: int
    epoch: int = 1
    incarnation: int = 0
    last_timestamp_ms: int | None = None
    halted: str | None = None
    bad_allowance: int = 0


@dataclass
class MemoryStore:
    """What takeovers and halts ask of the database. It answers the statements of `sentinel.store.offsets` and
    `sentinel.store.halts` by what they name, and refuses others; the statements have their own tests.
    """

    rows: dict[Partition, StoredPosition] = field(default_factory=dict)
    gaps: list[tuple[Partition, int, int]] = field(default_factory=list)
    away: bool = False
    connects: int = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        self.connects += 1
        await asyncio.sleep(0)
        if self.away:
            raise UnavailableError("the database is away (test)")
        yield cast("asyncpg.Connection[Any]", self)

    async def fetchrow(self, statement: str, *values: Any) -> dict[str, Any] | None:
        await asyncio.sleep(0)
        partition = Partition(values[0], values[1])
        if "INSERT INTO offset_gaps" in statement:
            row = self.rows[partition]
            if row.epoch != values[2] or row.next_offset >= values[3]:
                return None
            self.gaps.append((partition, row.next_offset, values[3]))
            row.next_offset, row.last_timestamp_ms = values[3], None
            return {"id": len(self.gaps)}
        assert "INSERT INTO consumer_offsets" in statement, statement
        created = partition not in self.rows
        if created:
            self.rows[partition] = StoredPosition(values[2], values[5])
        else:
            self.rows[partition].epoch += 1
        row = self.rows[partition]
        return {
            "epoch": row.epoch,
            "incarnation": row.incarnation,
            "cluster_id": row.cluster_id,
            "next_offset": row.next_offset,
            "last_timestamp_ms": row.last_timestamp_ms,
            "halted": row.halted,
            "bad_allowance": row.bad_allowance,
            "created": created,
        }

    async def fetchval(self, statement: str, *values: Any) -> bool:
        assert "SET halted = coalesce(halted" in statement, statement
        topic, number, epoch, reason, _detail = values
        row = self.rows[Partition(topic, number)]
        if row.epoch != epoch:
            return False
        row.halted = row.halted or reason
        return True

    async def fetch(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        assert "FROM consumer_offsets" in statement, statement
        await asyncio.sleep(0)
        return [
            {"topic": topic, "partition": number, "halted": self.rows[Partition(topic, number)].halted}
            for topic, number, epoch in zip(*values, strict=True)
            if self.rows[Partition(topic, number)].epoch == epoch
        ]

    def __getattr__(self, name: str) -> Any:
        raise FatalError(f"the store in memory has no {name}")
