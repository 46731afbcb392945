"""The consumer loop: take over, poll what has room, hand out, commit; drain on revoke and on stop.

One task runs `ConsumerLoop.run`. Everything here lives in the event loop's thread; the only concurrent caller
is the rebalance listener, which notes changes and waits for the drain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from consumers import takeover
from consumers.flood import FloodGuard
from consumers.handing import Handler, LoopLimits, Observer
from consumers.outage import Outage
from consumers.patience import waiting
from consumers.source import LogRecord, PositionLostError, Source
from consumers.takeover import OwnedPartition
from consumers.tracker import Partition
from sentinel import logs
from sentinel.clock import Clock
from sentinel.errors import UnavailableError
from sentinel.events import RawRecord
from sentinel.store import halts, offsets

if TYPE_CHECKING:
    from sentinel.store.connections import Connect

_log = logs.get("consumers.loop")


class ConsumerLoop:
    """Polls partitions that are ready and have room, under limits, until stopped."""

    def __init__(
        self,
        source: Source,
        handler: Handler,
        *,
        connect: Connect,
        limits: LoopLimits,
        owner: str,
        group_id: str,
        start: Literal["earliest", "latest"],
        observer: Observer,
        clock: Clock,
        tick: Callable[[], None],
    ) -> None:
        self._source = source
        self._handler = handler
        self._connect = connect
        self._limits = limits
        self._owner = owner
        self._group_id = group_id
        self._start: Literal["earliest", "latest"] = start
        self._observer = observer
        self._clock = clock
        self._tick = tick
        self._owned: dict[Partition, OwnedPartition] = {}
        self._floods: dict[Partition, FloodGuard] = {}
        self._unready: set[Partition] = set()
        self._unstored_halts: deque[tuple[OwnedPartition, str]] = deque()
        self._assigned: frozenset[Partition] = frozenset()
        self._group_committed: dict[Partition, int] = {}
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping = False
        self._revoking = False
        self._turn = 0
        self._generation = 0
        self._outage = Outage(observer, clock)
        self.joined = False
        """True once an assignment was received: the group was joined."""

    # -- what others may ask ---------------------------------------------------------------------------------

    @property
    def owned(self) -> Sequence[OwnedPartition]:
        """The partitions that are ours now."""
        return tuple(self._owned.values())

    @property
    def outage(self) -> str:
        """What keeps the loop from working, empty while nothing does."""
        return self._outage.text

    @property
    def ready(self) -> bool:
        """Joined, every assigned partition taken over, and none halted."""
        return self.joined and not self._unready and not any(t.halted for t in self._owned.values())

    async def wait_exhausted(self) -> Literal[True]:
        """Return when a finite source was read to its end; never for a topic."""
        return await self._ended.wait()

    def wake(self) -> None:
        """Something finished: look again whether there is room."""
        self._wake.set()

    def stop(self) -> None:
        """Take no further records; `run` returns soon after."""
        self._stopping = True
        self._wake.set()

    # -- the loop --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop`. Raises ConfigurationError and FatalError; outages are waited out."""
        await self._join()
        last_commit = last_halt_check = last_poll = self._clock.monotonic()
        while not self._stopping:
            self._tick()
            now = self._clock.monotonic()
            if self._source.exhausted:
                self._ended.set()
            try:
                # Each of these waits ends by a time limit of its own, which may be longer than our deadline.
                with waiting(self._tick):
                    if now - last_commit >= self._limits.commit_interval_s:
                        last_commit = now
                        await self.commit()
                    await self._store_halts()
                    if now - last_halt_check >= self._limits.halt_check_s:
                        last_halt_check = now
                        await self._check_halts()
                    if self._unready and not self._revoking:
                        await self._take_over()
                if await self._poll_once():
                    last_poll = self._clock.monotonic()
                elif self._clock.monotonic() - last_poll > (
                    # The client tells only who asks it that the group denies us.
                    self._limits.idle_keepalive_s if self.joined else self._limits.join_check_s
                ):
                    await self._source.keepalive(1.0)
            except PositionLostError as lost:
                self._retake(lost.partitions)
            except UnavailableError as error:
                self._outage.away(error)
                await self._pause(1.0)
            else:
                self._outage.back()

    async def _join(self) -> None:
        """Start the source; a log that is away at the start is waited for like a later outage."""
        while not self._stopping:
            try:
                with waiting(self._tick):
                    await self._source.start(self._on_revoked, self._on_assigned)
            except UnavailableError as error:
                self._outage.away(error)
                await self._pause(1.0)
            else:
                self._outage.back()
                return

    async def _poll_once(self) -> bool:
        """Poll the partitions with room; False when none has any."""
        room = self._handler.room()
        # Not for every single free place: a poll of one record costs as much as one of a hundred.
        enough = room >= max(1, self._limits.in_flight // 32)
        ready = self._ready_partitions() if enough and not self._revoking else []
        if not ready:
            began = self._clock.monotonic()
            await self._pause(self._limits.poll_timeout_s)
            self._observer.phase("wait", self._clock.monotonic() - began)
            return False
        smallest = min(self._limits.span - self._owned[p].span for p in ready)
        began = self._clock.monotonic()
        batches = await self._source.poll(
            ready, max_records=max(1, min(room, smallest)), timeout_s=self._limits.poll_timeout_s
        )
        polled = self._clock.monotonic()
        self._observer.phase("poll", polled - began)
        for partition, records in batches.items():
            tracker = self._owned.get(partition)
            # A rebalance may have begun while the poll waited: these records are the next owner's.
            if tracker is not None and tracker.alive and not self._revoking:
                self._observer.records(len(records))
                self._hand_out(tracker, records)
        self._observer.phase("decode", self._clock.monotonic() - polled)
        return True

    def _ready_partitions(self) -> list[Partition]:
        """Partitions that may be polled now, each turn starting with another one."""
        buffered = sum(t.buffered_bytes for t in self._owned.values())
        if buffered >= self._limits.buffered_bytes:
            return []
        full = self._limits.span - max(1, self._limits.span // 4)
        ready = [
            p
            for p, t in self._owned.items()
            if t.alive and not t.halted and t.span <= full and p not in self._unready
        ]
        if len(ready) > 1:
            self._turn = (self._turn + 1) % len(ready)
            ready = ready[self._turn :] + ready[: self._turn]
        return ready

    def _hand_out(self, tracker: OwnedPartition, records: Sequence[LogRecord]) -> None:
        """Hand records over. Must not wait or fail for an outage: what a poll returned is not polled again."""
        flood = self._floods[tracker.partition]
        topic, number = tracker.partition
        incarnation, cluster, handle = tracker.incarnation, self._source.cluster_id, self._handler.handle
        for record in records:
            if tracker.previous_timestamp_ms is not None:
                match takeover.check_previous(tracker, record.offset, record.timestamp):
                    case "skip":
                        continue
                    case "foreign":
                        detail = f"another record stands at offset {tracker.next_offset - 1}"
                        takeover.note_foreign(tracker, detail)
                        self._halt(tracker, detail)
                        return
                    case "take":
                        pass
            raw = RawRecord(
                topic, number, record.offset, record.timestamp, record.key, record.value, record.headers, incarnation,
                cluster,
            )  # fmt: skip
            slot = tracker.begin(raw)
            if flood.observe(handle(slot)):
                self._halt_flood(tracker, record.offset + 1)
                return
            if slot.waiting > 1 and self._handler.room() < -self._limits.in_flight:
                # Records of many items: the rest of the poll would hold a multiple of what may be in flight.
                self._source.seek(tracker.partition, record.offset + 1)
                return

    def _halt_flood(self, tracker: OwnedPartition, resume_at: int) -> None:
        tracker.halted = halts.HaltReason.FLOOD
        topic, number = tracker.partition
        # What the poll returned beyond this record was not handed out: read it again after the resume.
        self._source.seek(tracker.partition, resume_at)
        self._halt(tracker, f"too many bad records before offset {resume_at}")
        _log.error(
            "A flood of bad records halted this partition; see 'sentinel dlq list', then 'sentinel dlq resume'.",
            action="halt",
            reason="flood",
            topic=topic,
            partition=number,
            offset=resume_at,
        )

    def _halt(self, tracker: OwnedPartition, detail: str) -> None:
        """Polling stops at once; the store hears of it at the loop's next turn, or after an outage."""
        self._unstored_halts.append((tracker, detail))
        self._observer.halted(tracker.partition, tracker.halted)

    async def _store_halts(self) -> None:
        while self._unstored_halts:
            tracker, detail = self._unstored_halts[0]
            if tracker.alive:
                async with self._connect() as conn:
                    await takeover.store_halt(conn, tracker, detail)
            self._unstored_halts.popleft()

    async def _pause(self, seconds: float) -> None:
        """Wait until something finishes, at most so long."""
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    # -- ownership -------------------------------------------------------------------------------------------

    def _on_assigned(self, partitions: frozenset[Partition]) -> None:
        self._generation += 1
        self._assigned = partitions
        self._unready = set(partitions)
        self._revoking = False
        self.joined = True
        self.wake()

    async def _on_revoked(self, partitions: frozenset[Partition]) -> None:
        """Drain first, so that the next owner starts where we stopped; the fence covers what remains."""
        began = self._clock.monotonic()
        self._revoking = True
        self.wake()
        gone = [self._owned[p] for p in partitions if p in self._owned]
        try:
            if gone:
                await self._handler.drain(self._limits.revoke_drain_s)
                await self.commit()
        finally:
            self._release(partitions)
            self._unready -= partitions
            self._assigned -= partitions
            self._observer.rebalance(self._clock.monotonic() - began, len(partitions))

    def _release(self, partitions: Iterable[Partition]) -> None:
        gone = [self._owned.pop(p) for p in list(partitions) if p in self._owned]
        for tracker in gone:
            tracker.drop()
            self._observer.unassigned(tracker.partition)
            self._group_committed.pop(tracker.partition, None)

    def fenced(self, partitions: Iterable[tuple[str, int]]) -> None:
        """The store refused a flush: another owner has these partitions, or had them. Take them over anew."""
        self._retake([Partition(*p) for p in partitions])

    def _retake(self, partitions: Iterable[Partition]) -> None:
        lost = list(partitions)
        self._release(lost)
        self._unready.update(p for p in lost if p in self._assigned)
        self.wake()

    async def _take_over(self) -> None:
        wanted, generation = sorted(self._unready), self._generation
        taken = await takeover.take_over(
            self._source,
            self._connect,
            wanted,
            owner=self._owner,
            group_id=self._group_id,
            start=self._start,
            on_gap=self._observer.gap,
        )
        if generation != self._generation or self._revoking:
            # A rebalance happened during the waits above: those seeks are void, all is asked for again.
            return
        for partition in wanted:
            tracker = taken.get(partition)
            if tracker is None:
                continue
            self._release([partition])
            self._owned[partition] = tracker
            self._floods[partition] = FloodGuard(self._limits.flood, tracker.bad_allowance)
            self._observer.halted(partition, tracker.halted)
            self._unready.discard(partition)
        _log.info("Partitions were taken over.", action="assign", partitions=len(taken), owner=self._owner)

    async def _check_halts(self) -> None:
        """See what an operator changed: a resumed flood goes on, a reset log is taken over anew."""
        owned = list(self._owned.values())
        if not owned:
            return
        async with self._connect() as conn:
            known = await offsets.owned_halts(
                conn, [(t.partition.topic, t.partition.partition, t.epoch) for t in owned]
            )
        for tracker in owned:
            if not tracker.alive:
                continue
            if tracker.partition not in known:
                self._retake([tracker.partition])
                continue
            reason = known[tracker.partition]
            if tracker.halted and reason is None:
                # Taken over anew also after a flood: a partition that was halted at its takeover was never
                # sought, and would be read from wherever the group's own offset stands.
                self._retake([tracker.partition])
            elif reason is not None:
                tracker.halted = reason
                self._observer.halted(tracker.partition, reason)

    # -- progress --------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Tell Kafka's group how far the store is, never backwards."""
        moved: dict[Partition, int] = {}
        self._observer.assigned(len(self._assigned), sum(not t.halted for t in self._owned.values()))
        for partition, tracker in self._owned.items():
            self._observer.partition(tracker, self._source.lag(partition, tracker.next_offset))
            if tracker.next_offset > self._group_committed.get(partition, -1):
                moved[partition] = tracker.next_offset
        if moved:
            began = self._clock.monotonic()
            ok = await self._source.commit(moved)
            self._observer.phase("commit", self._clock.monotonic() - began)
            self._observer.committed(len(moved), ok=ok)
            if ok:
                self._group_committed.update(moved)

    async def leave(self) -> None:
        """Leave the group; idempotent. `commit` comes first: leaving does not call the rebalance listener."""
        await self._source.stop()
