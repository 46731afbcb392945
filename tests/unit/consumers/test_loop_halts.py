"""Partitions that the loop stops on purpose, and what an operator makes of them."""

from __future__ import annotations

import asyncio

import pytest

from consumers.takeover import FOREIGN
from tests.support.loop_bench import BAD, A, B, Bench
from tests.support.memory import StoredPosition, log_record
from tests.support.waiting import wait_until


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of the loop's parts is tried again soon."""

    async def short(self: object, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))

    monkeypatch.setattr("consumers.loop.ConsumerLoop._pause", short)


async def test_a_flood_halts_its_partition_and_is_resumed() -> None:
    bench = Bench({A: 0, B: 30})
    bench.source.logs[A] = [log_record(n, BAD) for n in range(30)]
    async with bench.running():
        await wait_until(lambda: A in bench.store.rows and bench.store.rows[A].halted == "flood")
        await wait_until(lambda: len(bench.hands.offsets(B)) == 30)
        await bench.turns()
        assert bench.hands.offsets(A) == [0, 1, 2, 3, 4]
        assert not bench.loop.ready
        assert bench.notes.halts[-1] == (A, "flood")
        row = bench.store.rows[A]
        row.next_offset, row.halted, row.bad_allowance = 5, None, 20
        await wait_until(lambda: len(bench.hands.offsets(A)) == 30)
        await bench.turns()
        assert bench.hands.offsets(A) == list(range(30)), "20 are let through, 5 make the next halt"
        assert bench.notes.halts[-1] == (A, "flood")


@pytest.mark.usefixtures("quick")
async def test_a_halt_during_an_outage_drops_nothing_of_the_same_poll() -> None:
    """One poll brings both partitions; the store is away when the first of them must be halted."""
    bench = Bench({A: 0, B: 0})
    async with bench.running():
        await wait_until(lambda: bench.loop.ready)
        bench.store.away = True
        for number in range(30):
            bench.source.logs[A].append(log_record(number, BAD))
            bench.source.logs[B].append(log_record(number))
        await wait_until(lambda: bench.loop.outage)
        await bench.turns()
        assert bench.hands.offsets(A) == [0, 1, 2, 3, 4]
        assert bench.store.rows[A].halted is None
        bench.store.away = False
        await wait_until(lambda: bench.store.rows[A].halted == "flood")
        await wait_until(lambda: len(bench.hands.offsets(B)) == 30)
        await bench.turns()
    assert bench.hands.offsets(A) == [0, 1, 2, 3, 4]
    assert bench.hands.offsets(B) == list(range(30))


async def test_another_record_before_the_position_is_a_foreign_log() -> None:
    bench = Bench({A: 10, B: 10})
    bench.store.rows[A] = StoredPosition("memory", 5, last_timestamp_ms=1)
    async with bench.running():
        await wait_until(lambda: bench.store.rows[A].halted == FOREIGN)
        await wait_until(lambda: len(bench.hands.offsets(B)) == 10)
        await bench.turns()
        assert bench.hands.offsets(A) == []
        # `sentinel offsets reset`: another incarnation, from the beginning, and a fence.
        bench.store.rows[A] = StoredPosition("memory", 0, epoch=9, incarnation=1)
        await wait_until(lambda: len(bench.hands.offsets(A)) == 10)
    assert {s.record.incarnation for s in bench.hands.slots if s.tracker.partition == A} == {1}


@pytest.mark.usefixtures("quick")
async def test_a_foreign_log_is_not_read_while_the_store_is_away() -> None:
    bench = Bench({A: 0})
    bench.store.rows[A] = StoredPosition("memory", 5, last_timestamp_ms=1)
    bench.source.beginnings[A] = 0
    bench.source.logs[A] = [log_record(n) for n in range(10)]
    bench.source.hold.clear()
    async with bench.running():
        await asyncio.wait_for(bench.source.holding.wait(), 60)
        bench.store.away = True
        bench.source.hold.set()
        await wait_until(lambda: bench.loop.outage)
        await bench.turns()
        assert bench.hands.slots == []
        bench.store.away = False
        await wait_until(lambda: bench.store.rows[A].halted == FOREIGN)
        await bench.turns()
    assert bench.hands.slots == []


async def test_the_known_record_before_the_position_is_skipped() -> None:
    bench = Bench({A: 10})
    bench.store.rows[A] = StoredPosition("memory", 5, last_timestamp_ms=1004)
    async with bench.running():
        await bench.handed(5)
        await bench.turns()
    assert bench.hands.offsets(A) == [5, 6, 7, 8, 9]


async def test_a_halt_found_at_the_takeover_is_kept_and_resumes_at_the_stored_position() -> None:
    bench = Bench({A: 10})
    bench.store.rows[A] = StoredPosition("memory", 4, halted="flood")
    async with bench.running():
        await wait_until(lambda: bench.loop.owned)
        await bench.turns()
        assert bench.hands.slots == []
        assert A not in bench.source.positions, "it was never sought"
        bench.store.rows[A].halted = None
        await bench.handed(6)
        await bench.turns()
    assert bench.hands.offsets(A) == [4, 5, 6, 7, 8, 9]
    assert [t.next_offset for t in bench.loop.owned] == [10]


async def test_a_halt_by_somebody_else_is_obeyed() -> None:
    bench = Bench({A: 10})
    async with bench.running():
        await bench.handed(10)
        bench.store.rows[A].halted = FOREIGN
        await wait_until(lambda: any(t.halted for t in bench.loop.owned))
        bench.source.logs[A].append(log_record(10))
        await bench.turns()
        assert len(bench.hands.slots) == 10


async def test_an_epoch_that_moved_on_is_noticed_without_a_flush() -> None:
    bench = Bench({A: 10})
    async with bench.running():
        await bench.handed(10)
        bench.store.rows[A].epoch, bench.store.rows[A].next_offset = 6, 10
        await wait_until(lambda: [t.epoch for t in bench.loop.owned] == [7])


@pytest.mark.usefixtures("quick")
async def test_polling_goes_on_in_other_partitions_after_an_outage_at_the_halts_check() -> None:
    bench = Bench({A: 10})
    async with bench.running():
        await bench.handed(10)
        bench.store.away = True
        await wait_until(lambda: bench.loop.outage)
        bench.store.away = False
        bench.source.logs[A].append(log_record(10))
        await bench.handed(11)
        assert bench.loop.outage == ""
