"""Becoming the owner of partitions: fence first, then compare the log with what the store remembers.

    1. read the log's bounds
    2. raise the epoch in the store (from here on a former owner cannot write)
    3. compare: another cluster, or a stored position beyond the end      -> halt as foreign
                a stored position below the beginning                     -> record the gap, move past it
                the record just before the position, by its timestamp     -> halt as foreign if it differs
    4. seek; only then is the partition polled

Step 3's last comparison needs that record: the partition is read from one offset earlier, and the loop hands
the first record to `check_previous` instead of the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from consumers.source import Bounds, Source
from consumers.tracker import Partition, PartitionTracker
from sentinel import logs
from sentinel.store import halts, offsets

if TYPE_CHECKING:
    import asyncpg

    from sentinel.store.connections import Connect

FOREIGN = "foreign"
"""Halt reason of a partition whose log is not the one that the stored position belongs to."""

_log = logs.get("consumers.takeover")


class OwnedPartition(PartitionTracker):
    """A tracker with what the takeover learnt."""

    def __init__(self, taken: offsets.TakenPartition, next_offset: int) -> None:
        super().__init__(
            Partition(taken.topic, taken.partition),
            epoch=taken.epoch,
            incarnation=taken.incarnation,
            next_offset=next_offset,
        )
        self.halted = taken.halted
        self.bad_allowance = taken.bad_allowance
        self.previous_timestamp_ms: int | None = None
        """Timestamp that the record at ``next_offset`` - 1 must have; None when there is nothing to check."""


async def take_over(
    source: Source,
    connect: Connect,
    partitions: Sequence[Partition],
    *,
    owner: str,
    group_id: str,
    start: Literal["earliest", "latest"],
    on_gap: Callable[[Partition, int], None],
) -> Mapping[Partition, OwnedPartition]:
    """Own these partitions and seek each; partitions that were revoked meanwhile are left out.

    Raises UnavailableError while Kafka or the database is away: nothing is polled until a repeat succeeds.
    """
    bounds = await source.bounds(partitions)
    owned: dict[Partition, OwnedPartition] = {}
    async with connect() as conn:
        for partition in sorted(partitions):
            limits = bounds[partition]
            taken = await offsets.take_over(
                conn,
                topic=partition.topic,
                partition=partition.partition,
                cluster_id=source.cluster_id,
                group_id=group_id,
                owner=owner,
                start=limits.beginning if start == "earliest" else limits.end,
            )
            owned[partition] = await _compare(conn, source, taken, limits, on_gap)
    return {p: tracker for p, tracker in owned.items() if tracker.halted or _seek(source, tracker)}


async def _compare(
    conn: asyncpg.Connection[Any],
    source: Source,
    taken: offsets.TakenPartition,
    limits: Bounds,
    on_gap: Callable[[Partition, int], None],
) -> OwnedPartition:
    tracker = OwnedPartition(taken, taken.next_offset)
    if taken.halted:
        return tracker
    if taken.cluster_id != source.cluster_id:
        await halt_foreign(conn, tracker, f"stored offsets belong to cluster {taken.cluster_id!r}")
    elif taken.next_offset > limits.end:
        await halt_foreign(conn, tracker, f"stored offset {taken.next_offset} is beyond the end {limits.end}")
    elif taken.next_offset < limits.beginning:
        lost = limits.beginning - taken.next_offset
        await offsets.record_gap(conn, taken, limits.beginning)
        on_gap(tracker.partition, lost)
        tracker.next_offset = limits.beginning
        _log.error(
            "The log dropped records before they were read.",
            action="gap",
            topic=taken.topic,
            partition=taken.partition,
            from_offset=taken.next_offset,
            to_offset=limits.beginning,
        )
    elif taken.last_timestamp_ms is not None and taken.next_offset > limits.beginning:
        tracker.previous_timestamp_ms = taken.last_timestamp_ms
    return tracker


def _seek(source: Source, tracker: OwnedPartition) -> bool:
    back = 1 if tracker.previous_timestamp_ms is not None else 0
    return source.seek(tracker.partition, tracker.next_offset - back)


def check_previous(
    tracker: OwnedPartition, offset: int, timestamp_ms: int
) -> Literal["skip", "take", "foreign"]:
    """Judge the first record read after a takeover.

    ``skip``: it is the known record just before our position. ``take``: that record was compacted away and this
    is a new one. ``foreign``: another record stands where ours was, so the log was made anew.
    """
    expected, tracker.previous_timestamp_ms = tracker.previous_timestamp_ms, None
    if offset >= tracker.next_offset:
        return "take"
    return "skip" if timestamp_ms == expected else "foreign"


async def halt_foreign(conn: asyncpg.Connection[Any], tracker: OwnedPartition, detail: str) -> None:
    """Stop reading a log that is not ours until ``sentinel offsets reset``."""
    note_foreign(tracker, detail)
    await store_halt(conn, tracker, detail)


def note_foreign(tracker: OwnedPartition, detail: str) -> None:
    """Halt in memory, at once; `store_halt` follows."""
    tracker.halted = FOREIGN
    _log.error(
        "The log under this partition is not the one that was read before; run 'sentinel offsets reset'.",
        action="halt",
        reason=FOREIGN,
        topic=tracker.partition.topic,
        partition=tracker.partition.partition,
        detail=detail,
    )


async def store_halt(conn: asyncpg.Connection[Any], tracker: OwnedPartition, detail: str) -> None:
    """Store a tracker's halt, for operators and for the next owner."""
    if tracker.halted is not None:
        topic, partition = tracker.partition
        await halts.set_halt(conn, topic, partition, tracker.halted, detail, epoch=tracker.epoch)
