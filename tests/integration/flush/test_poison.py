"""A value that the database refuses costs its own item, never the batch, the offset or the service."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.errors import FatalError
from sentinel.events import Message
from sentinel.interactions import Interaction, Recordable
from sentinel.store.engine import raw_connection
from sentinel.store.partitions import create_missing
from sentinel.verdicts import Label, Role
from tests.support.accounting import account, assert_sums
from tests.support.recorder_bench import RecorderBench
from tests.support.recordings import NOW, TOPIC, Ledger, event, letter, scored, verdict

LONE = "half a pair \ud800"


def bench_on(engine: AsyncEngine, **limits: Any) -> RecorderBench:
    async def create(day: dt.date) -> None:
        async with raw_connection(engine) as conn:
            await create_missing(conn, day)

    return RecorderBench(lambda: raw_connection(engine), create, **limits)


def fields(name: str, value: Any) -> Interaction:
    return scored(event(0, "bad", **{name: value}))


def with_verdict(**changes: Any) -> Interaction:
    of = event(0, "bad")
    found = verdict(of, Role.RESPONSE, Label.SAFE)
    return Interaction(
        event=of,
        outcome=scored(of).outcome,
        response_verdict=structs.replace(found, assessment=structs.replace(found.assessment, **changes)),
        policy_version="policy-1",
    )


POISON: dict[str, Interaction] = {
    "surrogate in the answer": fields("response", LONE),
    "surrogate in a message": fields("messages", (Message("user", LONE),)),
    "surrogate in attrs": fields("attrs", {"a": [LONE]}),
    "surrogate in a key of attrs": fields("attrs", {LONE: 1}),
    "surrogate in the tenant": fields("tenant", LONE),
    "surrogate in a client's verdict": fields("client_verdicts", ({"label": LONE},)),
    "NUL in the answer": fields("response", "a\x00b"),
    "NUL in a message": fields("messages", (Message("user", "a\x00b"),)),
    "NUL in attrs": fields("attrs", {"a": "\x00"}),
    "NUL in the model": fields("model", "\x00"),
    "integer of attrs beyond 64 bits": fields("attrs", {"n": 2**70}),
    "tokens beyond int4": fields("input_tokens", 2**31),
    "tokens beyond int8": fields("output_tokens", 2**70),
    "choice beyond int2": fields("choice", 40_000),
    "parts beyond int4": fields("unscanned_parts", 2**40),
    "time that is no time": fields("event_time", "yesterday"),
    "time that is a number": fields("event_time", 5.5),
    "surrogate in the guard's words": with_verdict(raw=LONE),
    "NUL in a category": with_verdict(categories=("\x00",)),
    "windows beyond int2": with_verdict(windows=70_000),
    "unknown label": with_verdict(label="fine"),
}


@pytest.mark.parametrize("name", POISON)
async def test_the_culprit_alone_is_a_dead_letter(
    engine: AsyncEngine, ledger: Ledger, database_url: str, name: str
) -> None:
    bench = bench_on(engine)
    tracker = bench.tracker()
    items: list[Recordable] = [scored(event(n, f"good-{n}"), unsafe=n == 3) for n in range(11)]
    poison = POISON[name]
    items.insert(7, poison)
    bench.put_all(tracker, items)
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert (tracker.next_offset, tracker.span) == (12, 0)
    found = await account(database_url, TOPIC)
    assert found.outcomes == {"stored": 11, "dead_letter(store_rejected)": 1}
    assert_sums(found, records=12)
    assert found.findings == 1
    (dead,) = await ledger.fetch("SELECT * FROM dead_letters")
    assert dead["event_id"] == poison.event.event_id
    assert dead["value"] == b"{}"
    assert bench.available == [], "no outage was seen"
    assert bench.retries == ["bisect"]


async def test_several_culprits_and_a_duplicate_of_a_good_one(
    engine: AsyncEngine, ledger: Ledger, database_url: str
) -> None:
    bench = bench_on(engine)
    tracker = bench.tracker()
    bad = {0, 5, 6, 13, 14}
    items: list[Recordable] = [
        scored(event(n, f"n-{n}", response=LONE if n in bad else "good")) for n in range(15)
    ]
    items += [scored(event(15, "n-1", response="good")), letter(16)]
    bench.put_all(tracker, items)
    async with bench.running():
        assert await bench.recorder.settled(60)
    found = await account(database_url, TOPIC)
    assert_sums(found, records=17)
    assert found.outcomes == {
        "stored": 10,
        "duplicate(seen)": 1,
        "dead_letter(store_rejected)": 5,
        "dead_letter(invalid_json)": 1,
    }
    assert {r["offset"] for r in await ledger.fetch('SELECT "offset" FROM dead_letters')} == bad | {16}


async def test_one_item_of_a_record_of_many(engine: AsyncEngine, ledger: Ledger, database_url: str) -> None:
    bench = bench_on(engine)
    tracker = bench.tracker()
    slot = bench.hand_out(tracker, 0, items=4)
    for item in range(4):
        text = LONE if item == 2 else "good"
        bench.recorder.put(slot, scored(event(0, f"n-{item}", item=item, response=text)))
    async with bench.running():
        assert await bench.recorder.settled(60)
    found = await account(database_url, TOPIC)
    assert_sums(found, records=1)
    assert found.outcomes == {"stored": 3, "dead_letter(store_rejected)": 1}
    assert await ledger.value("SELECT item FROM dead_letters") == 2


@pytest.mark.parametrize(
    "dead",
    [
        letter(0, detail=LONE + "\x00"),
        letter(0, headers=((LONE, b"\xff"), ("nul\x00", None))),
        letter(0, key=None, value=None),
        letter(0, timestamp_ms=2**62),
        letter(0, timestamp_ms=-1),
        letter(0, value=b"\x00\xff" * 100_000),
    ],
    ids=["detail", "headers", "empty", "far future", "no timestamp", "bytes"],
)
async def test_a_dead_letter_can_always_be_stored(
    engine: AsyncEngine, ledger: Ledger, database_url: str, dead: Recordable
) -> None:
    bench = bench_on(engine)
    tracker = bench.tracker()
    bench.put_all(tracker, [dead])
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert_sums(await account(database_url, TOPIC), records=1)


@pytest.mark.parametrize("received_ms", [-1, 0, 253_402_300_799_999, 253_402_300_800_000, 2**62])
async def test_any_clock_of_a_broker_is_stored(ledger: Ledger, received_ms: int) -> None:
    await ledger.write([scored(event(0, "a", received_ms=received_ms))], to=1)
    assert await ledger.value("SELECT count(*) FROM interactions") == 1


async def test_a_day_without_partitions_is_made(
    engine: AsyncEngine, ledger: Ledger, database_url: str
) -> None:
    bench = bench_on(engine)
    bench.clock.today = NOW + dt.timedelta(days=33)
    bench.put_all(bench.tracker(), [scored(event(n, f"n-{n}")) for n in range(5)])
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert bench.days == [bench.clock.today.date()]
    assert bench.retries == ["missing_partition"]
    assert_sums(await account(database_url, TOPIC), records=5)


async def test_a_schema_that_does_not_fit_is_fatal(engine: AsyncEngine, ledger: Ledger) -> None:
    await ledger.fetch("ALTER TABLE interactions RENAME COLUMN reason TO why")
    bench = bench_on(engine)
    bench.put_all(bench.tracker(), [scored(event(0, "a"))])
    async with bench.running() as task:
        with pytest.raises(FatalError, match="UndefinedColumn"):
            await task
    assert await ledger.value("SELECT count(*) FROM event_keys") == 0


async def test_a_lost_partition_is_dropped_and_the_other_goes_on(
    engine: AsyncEngine, ledger: Ledger, database_url: str
) -> None:
    await Ledger(engine, partition=1).take()
    bench = bench_on(engine)
    ours, lost = bench.tracker(partition=1), bench.tracker()
    bench.put_all(ours, [scored(event(n, f"a-{n}", partition=1)) for n in range(4)])
    bench.put_all(lost, [scored(event(n, f"b-{n}")) for n in range(4)])
    await ledger.take()
    async with bench.running():
        assert await bench.recorder.settled(60)
    assert bench.lost == [(TOPIC, 0)]
    assert (ours.next_offset, lost.next_offset, lost.alive) == (4, 0, False)
    assert_sums(await account(database_url, TOPIC), records=4)


async def test_deadlocks_are_repeated_until_both_are_through(engine: AsyncEngine, database_url: str) -> None:
    """Two recorders write the same calls in many small batches, one from the front and one from the back."""
    benches = []
    for partition in (0, 1):
        await Ledger(engine, partition=partition).take()
        bench = bench_on(engine, flush_rows=7, max_flush_rows=7)
        order = range(70) if partition == 0 else range(69, -1, -1)
        items = [scored(event(at, f"n-{n}", partition=partition)) for at, n in enumerate(order)]
        bench.put_all(bench.tracker(partition=partition), items)
        benches.append(bench)
    async with benches[0].running(), benches[1].running():
        assert await benches[0].recorder.settled(60)
        assert await benches[1].recorder.settled(60)
    found = await account(database_url, TOPIC)
    assert_sums(found, records=140)
    assert found.outcomes == {"stored": 70, "duplicate(seen)": 70}
