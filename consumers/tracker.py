"""Progress of one partition under one epoch: which handed-out offsets are settled, and how far they reach.

Method: a deque of the offsets that were really handed out, popped while its head is settled. Holes in the log
(transaction markers, compaction) need no arithmetic, since they are never handed out.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from msgspec import Struct

from sentinel.events import RawRecord
from sentinel.outcomes import Outcome

OutcomeKey = tuple[Outcome, str]
"""An outcome and its reason."""


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Slot(Struct, eq=False, gc=False):
    """One handed-out record and what became of its items so far.

    Tracker and slots refer to each other until the record is passed, or the tracker dropped: no work for the cycle
    collector.

    ``waiting`` counts items that are not written yet; ``in_flush`` those of them that the flush under way
    writes. The raw record is kept until the offset is passed: any item may still become a dead letter.
    """

    tracker: PartitionTracker
    record: RawRecord
    size: int
    """Bytes that the record holds in memory, headers left out."""
    waiting: int = 1
    in_flush: int = 0
    outcomes: list[OutcomeKey] | None = None
    """Of items that are written, None before the first: most records have one, which passes as it is written."""

    def expect(self, items: int) -> None:
        """The record carries ``items`` items; zero items settle it at once."""
        self.waiting = items

    def settle(self, outcome: OutcomeKey) -> None:
        """One item was written (its transaction committed), and the record is not passed with it."""
        if self.outcomes is None:
            self.outcomes = [outcome]
        else:
            self.outcomes.append(outcome)
        self.waiting -= 1
        self.in_flush -= 1


class Progress(NamedTuple):
    """How far a partition may move when the flush that was planned commits."""

    base: int
    next_offset: int
    last_timestamp_ms: int | None
    records: int
    holes: int
    settled: Counter[OutcomeKey]
    """Outcomes of items that earlier flushes wrote and that this move passes."""


class PartitionTracker:
    """Offsets handed out and not passed yet, in order; single-threaded, belongs to the event loop."""

    def __init__(self, partition: Partition, *, epoch: int, incarnation: int, next_offset: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.incarnation = incarnation
        self.next_offset = next_offset
        """Committed in the store: all before it is written and counted."""
        self.alive = True
        """False once the partition was revoked or fenced: what is still under way is dropped."""
        self.halted: str | None = None
        self._slots: deque[Slot] = deque()
        self.buffered_bytes = 0

    @property
    def span(self) -> int:
        """Records handed out and not passed."""
        return len(self._slots)

    def begin(self, record: RawRecord) -> Slot:
        """Hand out a record; offsets must rise."""
        value, key = record.value, record.key
        size = (len(value) if value else 0) + (len(key) if key else 0)
        slot = Slot(self, record, size)
        self._slots.append(slot)
        self.buffered_bytes += size
        return slot

    def plan(self) -> Progress:
        """The move that becomes legal if everything ``in_flush`` commits; changes nothing."""
        passed = 0
        settled: Counter[OutcomeKey] = Counter()
        last: RawRecord | None = None
        for slot in self._slots:
            if slot.waiting != slot.in_flush:
                break
            passed += 1
            last = slot.record
            if slot.outcomes is not None:
                settled.update(slot.outcomes)
        if last is None:
            return Progress(self.next_offset, self.next_offset, None, 0, 0, settled)
        target = last.offset + 1
        holes = target - self.next_offset - passed
        # A record without a timestamp cannot be recognised again: nothing is compared after a takeover.
        timestamp = last.timestamp_ms if last.timestamp_ms >= 0 else None
        return Progress(self.next_offset, target, timestamp, passed, holes, settled)

    def passes(self, slot: Slot, progress: Progress) -> bool:
        """Whether the planned move goes past this slot's record."""
        return slot.record.offset < progress.next_offset

    def advance(self, progress: Progress) -> None:
        """The planned move was committed: forget the records that it passed."""
        slots = self._slots
        for _ in range(progress.records):
            self.buffered_bytes -= slots.popleft().size
        self.next_offset = progress.next_offset

    def drop(self) -> None:
        """The partition is no longer ours: nothing of it may be written any more."""
        self.alive = False
        self._slots.clear()
        self.buffered_bytes = 0
