"""The consumer loop over a log and a store in memory: limits and ownership."""

from __future__ import annotations

import asyncio

import pytest

from consumers.tracker import Partition
from sentinel.errors import FatalError, UnavailableError
from tests.support.loop_bench import A, B, Bench, C
from tests.support.memory import StoredPosition, log_record
from tests.support.waiting import wait_until


async def test_all_records_are_handed_out_once_and_committed() -> None:
    bench = Bench({A: 40, B: 7, C: 0})
    async with bench.running():
        await bench.handed(47)
        await wait_until(lambda: bench.source.commits and bench.source.commits[-1].get(A) == 40)
    assert bench.hands.offsets(A) == list(range(40))
    assert bench.hands.offsets(B) == list(range(7))
    assert bench.notes.phases >= {"poll", "decode", "commit"}
    assert bench.loop.ready
    moved = [c[A] for c in bench.source.commits if A in c]
    assert moved == sorted(set(moved)), "the group's offset goes forward only, and says nothing twice"


async def test_a_failed_commit_is_said_again() -> None:
    bench = Bench({A: 3})
    bench.source.commits_fail = True
    async with bench.running():
        await bench.handed(3)
        await wait_until(lambda: len(bench.notes.commits) >= 2)
        bench.source.commits_fail = False
        await wait_until(lambda: {A: 3} in bench.source.commits)
    assert bench.notes.commits[0] is False


# -- limits


async def test_partitions_take_turns() -> None:
    bench = Bench({A: 90, B: 90, C: 90}, in_flight=10)
    bench.hands.limit = 10
    async with bench.running():
        await bench.handed(270)
    firsts = [polled[0] for polled, _ in bench.source.polled if len(polled) == 3]
    assert {firsts.count(p) for p in (A, B, C)} <= {len(firsts) // 3, len(firsts) // 3 + 1}
    order = [slot.tracker.partition for slot in bench.hands.slots[:30]]
    assert set(order) == {A, B, C}, "one busy partition does not starve the others"


async def test_intake_stops_when_nothing_more_may_be_in_flight() -> None:
    bench = Bench({A: 100}, in_flight=64)
    bench.hands.writes_at_once, bench.hands.limit = False, 64
    async with bench.running():
        await bench.handed(64)
        await bench.turns()
        assert len(bench.hands.slots) == 64
        polls = len(bench.source.polled)
        await bench.turns()
        assert len(bench.source.polled) == polls, "without room nothing is polled"
        bench.hands.write()
        bench.loop.wake()
        await bench.handed(100)
    assert all(asked <= 64 for _, asked in bench.source.polled)


async def test_records_of_many_items_end_a_poll_early() -> None:
    """Room is counted in events, a poll in records: ten thousand items may hide in each."""
    bench = Bench({A: 60}, in_flight=64)
    bench.hands.writes_at_once, bench.hands.limit, bench.hands.weight = False, 64, 50
    async with bench.running():
        await bench.handed(3)
        await bench.turns()
        assert len(bench.hands.slots) == 3, "150 events are more than twice what may be in flight"
        for _ in range(30):
            bench.hands.write()
            bench.loop.wake()
            await asyncio.sleep(0.02)
        await bench.handed(60)
    assert bench.hands.offsets(A) == list(range(60))


async def test_one_free_place_is_not_worth_a_poll() -> None:
    bench = Bench({A: 100}, in_flight=64)
    bench.hands.writes_at_once, bench.hands.limit = False, 1
    async with bench.running():
        await wait_until(lambda: bench.loop.ready)
        await bench.turns()
        assert bench.source.polled == []


async def test_the_span_stops_its_partition_alone() -> None:
    """The head of A is stuck: A stops at its span although much may be in flight, B goes on."""
    bench = Bench({A: 200, B: 200}, span=40)
    bench.hands.writes_at_once = False
    async with bench.running():
        await wait_until(lambda: bench.hands.offsets(A))
        for _ in range(3_000):
            stuck = [s for s in bench.hands.open if s.tracker.partition == A]
            bench.hands.open = [s for s in bench.hands.open if s.tracker.partition == B]
            bench.hands.write()
            bench.hands.open = stuck
            bench.loop.wake()
            await asyncio.sleep(0.002)
            if len(bench.hands.offsets(B)) == 200:
                break
        assert len(bench.hands.offsets(B)) == 200
        assert 30 < len(bench.hands.offsets(A)) <= 40
        bench.hands.writes_at_once = True
        bench.hands.write()
        await bench.handed(400)


async def test_bytes_in_memory_are_bounded() -> None:
    bench = Bench({A: 0, B: 0}, buffered_bytes=1000, in_flight=4)
    for partition in (A, B):
        bench.source.logs[partition] = [log_record(n, b"x" * 300) for n in range(50)]
    bench.hands.writes_at_once, bench.hands.limit = False, 4
    async with bench.running():
        await bench.handed(4)
        bench.hands.limit = 1000
        await bench.turns()
        assert len(bench.hands.slots) == 4
        bench.hands.limit, bench.hands.writes_at_once = 4, True
        bench.hands.write()
        bench.loop.wake()
        await bench.handed(100)


async def test_keepalive_only_after_a_long_time_without_a_poll() -> None:
    bench = Bench({A: 5}, idle_keepalive_s=1.5)
    async with bench.running():
        await bench.handed(5)
        await asyncio.sleep(2.0)
        assert bench.source.keepalives == 0, "an empty poll keeps the membership too"
        bench.hands.limit = 0
        await wait_until(lambda: bench.source.keepalives)
        bench.hands.limit = 1000
        await bench.turns()
        before = bench.source.keepalives
        await asyncio.sleep(2.0)
        assert bench.source.keepalives == before


async def test_a_stop_takes_nothing_more() -> None:
    bench = Bench({A: 5})
    async with bench.running() as task:
        await bench.handed(5)
        bench.loop.stop()
        await asyncio.wait_for(task, 60)
        bench.source.logs[A].append(log_record(5))
    assert len(bench.hands.slots) == 5


async def test_a_finite_source_ends() -> None:
    bench = Bench({A: 5})
    async with bench.running():
        await bench.handed(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.loop.wait_exhausted(), 0.05)
        bench.source.finite = True
        await asyncio.wait_for(bench.loop.wait_exhausted(), 60)


async def test_a_handlers_mistake_ends_the_loop() -> None:
    bench = Bench({A: 5})

    def broken() -> int:
        raise ZeroDivisionError

    bench.hands.room = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(bench.loop.run(), 60)


# -- ownership


async def test_revoking_drains_then_commits_then_lets_go() -> None:
    bench = Bench({A: 10})
    bench.hands.writes_at_once = False
    async with bench.running():
        await bench.handed(10)
        seen: list[bool] = []
        bench.hands.drain_hook = lambda: seen.append(bench.loop.owned[0].alive)
        await bench.source.rebalance([])
        assert seen == [True]
        assert bench.source.commits[-1] == {A: 10}
        assert not bench.loop.owned
        assert [slot.tracker.alive for slot in bench.hands.slots] == [False] * 10
        await bench.turns()
        assert len(bench.hands.slots) == 10


async def test_partitions_that_come_back_start_at_the_store_with_a_higher_epoch() -> None:
    bench = Bench({A: 10})
    bench.store.rows[A] = StoredPosition("memory", 4)
    async with bench.running():
        await bench.handed(6)
        bench.store.rows[A].next_offset = 8
        await bench.source.rebalance([A])
        await bench.handed(8)
        assert [t.epoch for t in bench.loop.owned] == [3]
    assert bench.hands.offsets(A) == [4, 5, 6, 7, 8, 9, 8, 9]


async def test_records_polled_across_a_rebalance_are_the_next_owners() -> None:
    bench = Bench({A: 10})
    bench.source.hold.clear()
    async with bench.running():
        await asyncio.wait_for(bench.source.holding.wait(), 60)
        await bench.source.rebalance([A])
        bench.source.hold.set()
        await bench.handed(10)
        await bench.turns()
    assert bench.hands.offsets(A) == list(range(10)), "once, by the new epoch"
    assert {slot.tracker.epoch for slot in bench.hands.slots} == {2}


async def test_a_rebalance_during_the_takeover_starts_it_again() -> None:
    bench = Bench({A: 10, B: 10})
    held, release = asyncio.Event(), asyncio.Event()
    bounds = bench.source.bounds

    async def slow(partitions: list[Partition]) -> object:
        found = await bounds(partitions)
        held.set()
        await release.wait()
        return found

    bench.source.bounds = slow  # type: ignore[method-assign,assignment]
    async with bench.running():
        await asyncio.wait_for(held.wait(), 60)
        await bench.source.rebalance([B])
        release.set()
        await bench.handed(10)
        await bench.turns()
        assert [t.partition for t in bench.loop.owned] == [B]
    assert bench.hands.offsets(A) == []
    assert bench.hands.offsets(B) == list(range(10))


async def test_a_fenced_partition_is_taken_over_again_and_others_stay() -> None:
    bench = Bench({A: 5, B: 5})
    async with bench.running():
        await bench.handed(10)
        bench.store.rows[A].epoch = 40
        bench.store.rows[A].next_offset = 3
        bench.loop.fenced([("t", 0), ("t", 9)])
        assert [t.partition for t in bench.loop.owned] == [B]
        await bench.handed(12)
        assert {t.partition: t.epoch for t in bench.loop.owned} == {A: 41, B: 1}
    assert bench.hands.offsets(A)[5:] == [3, 4]


async def test_a_lost_position_is_asked_of_the_store_again() -> None:
    bench = Bench({A: 6})
    async with bench.running():
        await bench.handed(6)
        bench.store.rows[A].next_offset = 6
        del bench.source.positions[A]
        bench.source.logs[A].append(log_record(6))
        await bench.handed(7)
    assert bench.hands.offsets(A) == list(range(7))


async def test_outages_are_waited_out_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench({A: 6})

    async def short(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))

    monkeypatch.setattr(bench.loop, "_pause", short)
    bench.source.away = UnavailableError("no brokers")
    bench.store.away = True
    async with bench.running():
        await bench.turns()
        assert "no brokers" in bench.loop.outage
        assert not bench.loop.ready
        bench.source.away = None
        await wait_until(lambda: "database" in bench.loop.outage)
        bench.store.away = False
        await bench.handed(6)
        await bench.turns()
        assert bench.loop.outage == ""
        bench.source.away = UnavailableError("no brokers")
        await wait_until(lambda: bench.loop.outage)
        bench.source.away = None
        bench.source.logs[A].append(log_record(6))
        await bench.handed(7)
    assert bench.hands.offsets(A) == list(range(7))


async def test_a_fatal_error_ends_the_loop() -> None:
    bench = Bench({A: 1})

    async def broken(*_: object, **__: object) -> None:
        raise FatalError("closed under the loop")

    bench.source.poll = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(FatalError):
        await asyncio.wait_for(bench.loop.run(), 60)
