"""The writer: collects finished items and flushes them, one transaction at a time.

collect   until `flush_rows` items or `flush_interval_s`
plan      per partition, how far its offset may move if this flush commits
flush     sentinel/store/flush.py; what an error means is decided by its class, see `_write`
settle    outcomes go to the slots, trackers advance, the loop is woken
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from consumers.tracker import PartitionTracker, Progress, Slot
from sentinel import logs
from sentinel.announcements import OutboxRow
from sentinel.clock import Clock
from sentinel.errors import FatalError, SentinelError
from sentinel.failures import describe
from sentinel.interactions import DeadLetter, Interaction, Recordable, origin_of
from sentinel.store.engine import DATABASE_ERRORS, ErrorClass, classify
from sentinel.store.flush import Announce, Entry, Flushed, LostPartitionsError, Move, flush

if TYPE_CHECKING:
    from sentinel.store.connections import Connect

_log = logs.get("daemon.recorder")


class RecorderLimits(Struct, frozen=True, kw_only=True):
    """When to flush. Times in seconds."""

    flush_rows: int = 500
    flush_interval_s: float = 0.03
    max_flush_rows: int = 2000
    """Rows of one transaction at most, when a backlog is written after an outage."""
    retry_s: float = 0.05
    outage_retry_s: float = 1.0


class Observer(Protocol):
    """What the recorder reports; metrics implement it."""

    def flushed(
        self, result: Flushed, entries: Sequence[Entry], seconds: float, now: dt.datetime
    ) -> None: ...
    def database(self, *, available: bool) -> None: ...
    def retried(self, reason: str) -> None: ...


class _Pending(Struct, gc=False):
    slot: Slot
    item: Recordable


class Recorder:
    """Single writer of one process; `put` never waits."""

    def __init__(
        self,
        connect: Connect,
        *,
        limits: RecorderLimits,
        announce: Announce,
        dead_letter_rows: Callable[[DeadLetter], OutboxRow | None],
        create_partition: Callable[[dt.date], Awaitable[None]],
        fenced: Callable[[Iterable[tuple[str, int]]], None],
        wrote: Callable[[Flushed], None],
        observer: Observer,
        clock: Clock,
        tick: Callable[[], None],
        code_version: str,
    ) -> None:
        self._connect = connect
        self._limits = limits
        self._announce = announce
        self._dead_letter_rows = dead_letter_rows
        self._create_partition = create_partition
        self._fenced = fenced
        self._wrote = wrote
        self._observer = observer
        self._clock = clock
        self._tick = tick
        self._code_version = code_version
        self._pending: list[_Pending] = []
        self._urgent = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.available = True
        """False while the database is away; intake stops."""

    def put(self, slot: Slot, item: Recordable) -> None:
        """Take one finished item."""
        pending = self._pending
        pending.append(_Pending(slot, item))
        # At these two numbers only: `run` looks at the number itself before it waits.
        if len(pending) == 1:
            self._idle.clear()
            self._wake.set()
        elif len(pending) == self._limits.flush_rows:
            self._wake.set()

    @property
    def backlog(self) -> int:
        """Items that wait for a flush."""
        return len(self._pending)

    async def settled(self, timeout_s: float) -> bool:
        """Wait, without lingering, until everything that was put is written; False when time ran out."""
        self._urgent += 1
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._urgent -= 1
        return True

    async def run(self) -> None:
        """Write until cancelled. Raises FatalError for errors that no repeat can mend."""
        while True:
            self._tick()
            if not self._pending:
                self._idle.set()
                await self._sleep(1.0)
                continue
            if len(self._pending) < self._limits.flush_rows and not self._urgent:
                await self._linger()
            batch = self._pending[: self._limits.max_flush_rows]
            del self._pending[: len(batch)]
            await self._write(batch)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _linger(self) -> None:
        deadline = self._clock.monotonic() + self._limits.flush_interval_s
        while len(self._pending) < self._limits.flush_rows and not self._urgent:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return
            await self._sleep(left)

    # -- writing ---------------------------------------------------------------------------------------------

    async def _write(self, batch: list[_Pending]) -> None:
        """Write a batch whatever it takes; only a fatal error or a cancellation leaves it unwritten."""
        now = self._clock.now()
        tries = 0
        behind: list[PartitionTracker] = []
        while True:
            batch = [p for p in batch if p.slot.tracker.alive]
            behind = [tracker for tracker in behind if tracker.alive]
            if not batch and not behind:
                break
            self._tick()
            try:
                await self._flush(batch, now, advance=True, behind=behind)
            except LostPartitionsError as lost:
                _log.warning("Another owner took partitions; their rows are dropped.", action="fenced")
                self._fenced(lost.partitions)
            except DATABASE_ERRORS as error:
                tries += 1
                kind = classify(error)
                self._observer.retried(_cause(kind, error))
                match kind:
                    case "retry":
                        await asyncio.sleep(self._limits.retry_s)
                    case "missing_partition" if tries <= 3:
                        await self._make_partition(now)
                    case "poison" if batch:
                        # The parts are written without moving the offset, and may leave nothing to move it with.
                        behind += [p.slot.tracker for p in batch]
                        batch = await self._isolate(batch, now)
                    case "unavailable" | "missing_partition":
                        await self._outage(error)
                    case "fatal" | "poison":
                        # Not the message itself: PostgreSQL quotes the failing row in it.
                        raise FatalError(f"the store refused a flush: {describe(error)}") from error
            else:
                self._back()
                return
        # All of the batch was dropped: nothing is left that would notice the database's return.
        while not self.available:
            self._tick()
            try:
                async with self._connect() as conn:
                    await conn.fetchval("SELECT 1")
            except DATABASE_ERRORS as error:
                await self._outage(error)
            else:
                self._back()

    async def _flush(
        self,
        batch: Sequence[_Pending],
        now: dt.datetime,
        *,
        advance: bool,
        behind: Sequence[PartitionTracker] = (),
    ) -> None:
        """One transaction; with ``advance`` the offsets move as far as they may, those ``behind`` too."""
        with _planned(batch) as trackers:
            plans = {t: t.plan() if advance else _standing(t) for t in (*trackers, *behind)}
            moves = [move_of(tracker, progress) for tracker, progress in plans.items()]
            entries = [
                Entry(p.item, advance and p.slot.tracker.passes(p.slot, plans[p.slot.tracker])) for p in batch
            ]
            began = self._clock.monotonic()
            async with self._connect() as conn:
                result = await flush(
                    conn,
                    moves,
                    entries,
                    now=now,
                    announce=self._announce,
                    dead_letter_rows=self._dead_letter_rows,
                    code_version=self._code_version,
                )
            for pending, entry, outcome in zip(batch, entries, result.outcomes, strict=True):
                # What is passed is forgotten below: nobody asks its slot again.
                if not entry.passed:
                    pending.slot.settle(outcome)
            for tracker, progress in plans.items():
                if tracker.alive:
                    tracker.advance(progress)
            self._observer.flushed(result, entries, self._clock.monotonic() - began, now)
            self._wrote(result)

    async def _isolate(self, batch: list[_Pending], now: dt.datetime) -> list[_Pending]:
        """Write all but the items that the store refuses; those come back as dead letters.

        Method: bisection. The good halves are written without moving the offset, which follows with the rest.
        """
        if len(batch) == 1:
            pending = batch[0]
            if isinstance(pending.item, DeadLetter):
                raise FatalError("the store refuses a dead letter: stopping, so that nothing is lost")
            return [_Pending(pending.slot, _refused(pending))]
        culprits: list[_Pending] = []
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            try:
                await self._flush(half, now, advance=False)
            except LostPartitionsError:
                # The next try of the whole meets the same fence and says so.
                culprits += half
            except DATABASE_ERRORS as error:
                if classify(error) != "poison":
                    # Not this half's fault: it goes again with the next try of the whole.
                    culprits += half
                    continue
                culprits += await self._isolate(half, now)
        return culprits

    async def _make_partition(self, now: dt.datetime) -> None:
        _log.warning(
            "A day partition was missing; creating it.", action="partition", day=now.date().isoformat()
        )
        try:
            await self._create_partition(now.date())
        except (*DATABASE_ERRORS, SentinelError) as error:
            await self._outage(error)

    async def _outage(self, error: BaseException) -> None:
        if self.available:
            _log.error(
                "The database is away; intake stops until it is back.",
                action="breaker",
                target="database",
                error=type(error).__name__,
            )
        self.available = False
        self._observer.database(available=False)
        self._tick()
        await asyncio.sleep(self._limits.outage_retry_s)

    def _back(self) -> None:
        if not self.available:
            _log.info("The database is back.", action="breaker", target="database")
            self.available = True
            self._observer.database(available=True)


@contextmanager
def _planned(batch: Sequence[_Pending]) -> Iterator[list[PartitionTracker]]:
    """Mark the slots of a batch as being flushed, and unmark them when the flush fails."""
    for pending in batch:
        pending.slot.in_flush += 1
    try:
        yield list({pending.slot.tracker: None for pending in batch})
    except BaseException:
        for pending in batch:
            pending.slot.in_flush -= 1
        raise


def _cause(kind: ErrorClass, error: BaseException) -> str:
    """Why a flush is repeated, in the words of its metric."""
    match kind:
        case "retry":
            return "deadlock" if getattr(error, "sqlstate", None) == "40P01" else "serialization"
        case "poison":
            return "bisect"
        case "missing_partition":
            return "missing_partition"
        case _:
            return "connection"


def _standing(tracker: PartitionTracker) -> Progress:
    return Progress(tracker.next_offset, tracker.next_offset, None, 0, 0, Counter())


def move_of(tracker: PartitionTracker, progress: Progress) -> Move:
    """A planned progress in the store's words."""
    return Move(
        topic=tracker.partition.topic,
        partition=tracker.partition.partition,
        incarnation=tracker.incarnation,
        epoch=tracker.epoch,
        base=progress.base,
        target=progress.next_offset,
        last_timestamp_ms=progress.last_timestamp_ms,
        records=progress.records,
        holes=progress.holes,
        settled=progress.settled,
    )


def _refused(pending: _Pending) -> DeadLetter:
    record = pending.slot.record
    return DeadLetter(
        origin=origin_of(pending.item),
        reason="store_rejected",
        detail="the database refuses a value of this item",
        error_class="DataError",
        key=record.key,
        value=record.value,
        headers=record.headers,
        timestamp_ms=record.timestamp_ms,
        event_id=pending.item.event.event_id if isinstance(pending.item, Interaction) else None,
    )
