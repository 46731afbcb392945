"""The writer's decisions: what an error means, who is the culprit, when an offset moves. No database."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from sentinel.errors import FatalError, UnavailableError
from sentinel.interactions import DeadLetter, Interaction
from sentinel.outcomes import Outcome
from sentinel.store.flush import Entry, Flushed, LostPartitionsError, Move
from tests.support.recorder_bench import RecorderBench
from tests.support.recordings import TOPIC, event, letter, scored
from tests.support.waiting import wait_until


class Store:
    """Stands for connection and flush: fails as told, else remembers what it was given."""

    def __init__(self) -> None:
        self.connect_errors: list[BaseException] = []
        self.errors: list[BaseException] = []
        self.refuses: Callable[[Sequence[Entry]], bool] = lambda _: False
        self.hold = asyncio.Event()
        self.hold.set()
        self.tries = 0
        self.nows: list[dt.datetime] = []
        self.written: list[Entry] = []
        self.moves: list[Move] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        if self.connect_errors:
            raise self.connect_errors.pop(0)
        yield self

    async def fetchval(self, statement: str) -> int:
        assert statement == "SELECT 1"
        return 1

    async def flush(
        self, conn: Any, moves: Sequence[Move], entries: Sequence[Entry], *, now: dt.datetime, **_: Any
    ) -> Flushed:
        assert conn is self
        self.tries += 1
        self.nows.append(now)
        await self.hold.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.refuses(entries):
            raise asyncpg.DataError("a value is refused")
        self.written += entries
        self.moves += moves
        outcomes = tuple(
            (Outcome.DEAD_LETTER, e.item.reason) if isinstance(e.item, DeadLetter) else (Outcome.STORED, "")
            for e in entries
        )
        return Flushed(outcomes=outcomes, replayed=0, collisions=0, new=(), findings=())

    def offsets(self) -> list[int]:
        return [e.item.event.origin.offset for e in self.written if isinstance(e.item, Interaction)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr("daemon.recorder.flush", made.flush)
    return made


def bench_on(store: Store, **limits: Any) -> RecorderBench:
    return RecorderBench(store.connect, **limits)


def events(count: int) -> list[Interaction]:
    return [scored(event(n, f"n-{n}")) for n in range(count)]


# -- when


async def test_a_flush_lingers_for_company(store: Store) -> None:
    # Much longer than the sleeps below, and than a garbage collection of the whole run.
    bench = bench_on(store, flush_interval_s=1.5)
    tracker = bench.tracker()
    async with bench.running():
        for n, item in enumerate(events(5)):
            bench.recorder.put(bench.hand_out(tracker, n), item)
            await asyncio.sleep(0.005)
        assert store.tries == 0
        assert bench.recorder.backlog == 5
        await wait_until(lambda: tracker.next_offset == 5)
    assert store.tries == 1


async def test_enough_rows_go_at_once_and_a_backlog_in_bounded_pieces(store: Store) -> None:
    bench = bench_on(store, flush_rows=10, flush_interval_s=300, max_flush_rows=25)
    tracker = bench.tracker()
    bench.put_all(tracker, events(60))
    async with bench.running():
        await wait_until(lambda: tracker.next_offset >= 50)
        sizes = [move.records for move in store.moves]
        assert sizes[:2] == [25, 25]
        assert await bench.recorder.settled(60), "a drain does not wait for the rest of a batch"
    assert store.offsets() == list(range(60))


async def test_settled_says_when_time_ran_out(store: Store) -> None:
    bench = bench_on(store)
    store.hold.clear()
    async with bench.running():
        assert await bench.recorder.settled(0), "there is nothing to write"
        bench.put_all(bench.tracker(), events(1))
        assert not await bench.recorder.settled(0.05)
        store.hold.set()
        assert await bench.recorder.settled(60)


async def test_offsets_follow_what_is_written_in_order(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    slots = [bench.hand_out(tracker, n) for n in (0, 1, 4)]
    items = [scored(event(n)) for n in (0, 1, 4)]
    async with bench.running():
        for n in (2, 1):
            bench.recorder.put(slots[n], items[n])
        assert await bench.recorder.settled(60)
        assert tracker.next_offset == 0
        assert all(not entry.passed for entry in store.written)
        bench.recorder.put(slots[0], items[0])
        assert await bench.recorder.settled(60)
    assert tracker.next_offset == 5
    last = store.moves[-1]
    assert (last.base, last.target, last.records, last.holes) == (0, 5, 3, 2)
    assert last.settled == {(Outcome.STORED, ""): 2}


# -- errors


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (asyncpg.DeadlockDetectedError("deadlock"), "deadlock"),
        (asyncpg.SerializationError("serialisation"), "serialization"),
        (asyncpg.LockNotAvailableError("lock"), "serialization"),
    ],
)
async def test_what_a_repeat_mends_is_repeated_the_same(
    store: Store, error: BaseException, counted: str
) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    store.errors = [error] * 3
    bench.put_all(tracker, events(3))
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert store.tries == 4
    assert len(set(store.nows)) == 1, "the day of receipt must not change between tries"
    assert tracker.next_offset == 3
    assert bench.available == []
    assert bench.retries == [counted] * 3


async def test_the_moment_is_kept_when_the_day_ends_during_the_tries(store: Store) -> None:
    bench = bench_on(store)
    store.errors = [ConnectionResetError()]
    bench.put_all(bench.tracker(), events(1))
    began = bench.clock.today
    store.hold.clear()
    async with bench.running():
        await wait_until(lambda: store.tries == 1)
        bench.clock.today += dt.timedelta(days=1)
        store.hold.set()
        assert await bench.recorder.settled(60)
    assert store.nows == [began, began]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        UnavailableError("away"),
        asyncpg.CannotConnectNowError("starting"),
        asyncpg.AdminShutdownError("bye"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.DiskFullError("full"),
        asyncpg.ReadOnlySQLTransactionError("demoted"),
    ],
)
async def test_an_outage_is_waited_out_and_shown(store: Store, error: BaseException) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    store.errors = [error] * 2
    store.connect_errors = [error] * 2
    bench.put_all(tracker, events(3))
    async with bench.running():
        await wait_until(lambda: not bench.recorder.available)
        assert await bench.recorder.settled(60)
        assert bench.recorder.available
    assert tracker.next_offset == 3
    assert bench.available[0] is False
    assert bench.available[-1] is True
    assert bench.retries == ["connection"] * 4
    assert store.offsets() == [0, 1, 2]


async def test_the_return_is_noticed_although_nothing_is_left_to_write(store: Store) -> None:
    """All partitions were revoked during the outage: no flush will tell that the database is back."""
    bench = bench_on(store)
    tracker = bench.tracker()
    store.connect_errors = [ConnectionResetError() for _ in range(20)]
    bench.put_all(tracker, events(3))
    async with bench.running():
        await wait_until(lambda: not bench.recorder.available)
        tracker.drop()
        await wait_until(lambda: bench.recorder.available)
    assert store.written == []


async def test_a_lost_partition_goes_and_the_others_are_written(store: Store) -> None:
    bench = bench_on(store)
    ours, lost = bench.tracker(), bench.tracker(partition=1)
    store.errors = [LostPartitionsError(frozenset({(TOPIC, 1)}))]
    bench.put_all(ours, events(3))
    bench.put_all(lost, [scored(event(n, partition=1)) for n in range(3)])
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert bench.lost == [(TOPIC, 1)]
    assert (ours.next_offset, lost.next_offset) == (3, 0)
    assert {move.partition for move in store.moves} == {0}


async def test_what_was_dropped_before_its_flush_is_not_written(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    bench.put_all(tracker, events(3))
    tracker.drop()
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert store.tries == 0


async def test_dropped_during_its_flush_it_stays_where_it_was(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    store.hold.clear()
    bench.put_all(tracker, events(3))
    async with bench.running():
        await wait_until(lambda: store.tries == 1)
        tracker.drop()
        store.hold.set()
        assert await bench.recorder.settled(60)
    assert tracker.next_offset == 0, "the next owner asks the store"


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedColumnError("schema"),
        asyncpg.InsufficientPrivilegeError("no"),
        asyncpg.PostgresSyntaxError("x"),
    ],
)
async def test_what_no_repeat_mends_stops_the_service(store: Store, error: BaseException) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    store.errors = [error]
    bench.put_all(tracker, events(1))
    async with bench.running() as task:
        with pytest.raises(FatalError):
            await task
    assert (tracker.next_offset, tracker.span) == (0, 1)


async def test_a_mistake_of_the_program_is_no_database_error(store: Store) -> None:
    bench = bench_on(store)
    store.errors = [ZeroDivisionError()]
    bench.put_all(bench.tracker(), events(1))
    async with bench.running() as task:
        with pytest.raises(ZeroDivisionError):
            await task


async def test_a_missing_day_is_made_and_else_waited_for(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    # Routing of a partitioned table: a check violation that names no constraint.
    store.errors = [asyncpg.CheckViolationError("no partition") for _ in range(5)]
    bench.put_all(tracker, events(1))
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert bench.days == [bench.clock.today.date()] * 3
    assert bench.available[0] is False, "making it did not help: that is an outage, not a loop"
    assert tracker.next_offset == 1


# -- culprits


@pytest.mark.parametrize("culprits", [{0}, {9}, {4, 5}, {0, 3, 9}, set(range(10))])
async def test_exactly_the_culprits_become_dead_letters(store: Store, culprits: set[int]) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    store.refuses = lambda entries: any(
        isinstance(e.item, Interaction) and e.item.event.origin.offset in culprits for e in entries
    )
    bench.put_all(tracker, events(10))
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert tracker.next_offset == 10
    assert sorted(store.offsets()) == sorted(set(range(10)) - culprits)
    dead = [e.item for e in store.written if isinstance(e.item, DeadLetter)]
    assert sorted(d.origin.offset for d in dead) == sorted(culprits)
    assert {d.reason for d in dead} <= {"store_rejected"}
    assert {d.event_id for d in dead} == {event(n, f"n-{n}").event_id for n in culprits}
    moved = [move for move in store.moves if move.target > move.base]
    assert len(moved) == 1, "the offset moves once, with the last of the batch"
    assert sum(moved[0].settled.values()) == 10 - len(culprits)
    assert sum(entry.passed for entry in store.written) == len(culprits)


async def test_an_outage_in_the_middle_of_the_search_accuses_nobody(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    refused: list[int] = []

    def refuses(entries: Sequence[Entry]) -> bool:
        if any(isinstance(e.item, Interaction) and e.item.event.origin.offset == 3 for e in entries):
            refused.append(len(entries))
            if len(refused) == 2:
                store.connect_errors = [ConnectionResetError() for _ in range(4)]
            return True
        return False

    store.refuses = refuses
    bench.put_all(tracker, events(8))
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert sorted(store.offsets()) == [0, 1, 2, 4, 5, 6, 7]
    assert tracker.next_offset == 8
    assert bench.recorder.available


async def test_what_is_refused_only_together_still_moves_the_offset(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    store.refuses = lambda entries: len(entries) == 4
    bench.put_all(tracker, events(4))
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert sorted(store.offsets()) == [0, 1, 2, 3]
    assert tracker.next_offset == 4


async def test_a_dead_letter_that_is_refused_stops_the_service(store: Store) -> None:
    bench = bench_on(store)
    store.refuses = lambda entries: any(isinstance(e.item, DeadLetter) for e in entries)
    bench.put_all(bench.tracker(), [*events(2), letter(2)])
    async with bench.running() as task:
        with pytest.raises(FatalError, match="dead letter"):
            await task


async def test_a_fence_in_the_middle_of_the_search_is_obeyed(store: Store) -> None:
    bench = bench_on(store)
    tracker = bench.tracker()
    asked: list[int] = []

    def refuses(entries: Sequence[Entry]) -> bool:
        asked.append(len(entries))
        if len(asked) > 1:
            raise LostPartitionsError(frozenset({(TOPIC, 0)}))
        return True

    store.refuses = refuses
    bench.put_all(tracker, events(4))
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert bench.lost == [(TOPIC, 0)]
    assert store.written == []


async def test_the_writer_ticks_while_it_waits_and_while_it_is_idle(store: Store) -> None:
    bench = bench_on(store)
    bench.tracker()
    store.connect_errors = [ConnectionResetError() for _ in range(10)]
    bench.put_all(bench.trackers[0], events(1))
    async with bench.running():
        assert await bench.recorder.settled(60)
        assert bench.ticks > 10
        before = bench.ticks
        await wait_until(lambda: bench.ticks > before)
