"""Moving a partition: sums grow with the offset, once, and only for its owner."""

from __future__ import annotations

import asyncio
import datetime as dt

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.interactions import Recordable, Replay
from sentinel.outcomes import Outcome
from sentinel.store import dead_letters
from sentinel.store.engine import classify
from sentinel.store.flush import Entry, LostPartitionsError, Move, flush
from sentinel.store.partitions import create_missing
from tests.support.accounting import account, assert_sums
from tests.support.recordings import NOW, TOPIC, Ledger, event, ignored, letter, scored, unscored

pytestmark = pytest.mark.postgres14

STORED = (Outcome.STORED, "")


async def test_sums_grow_with_the_offset_only(ledger: Ledger, database_url: str) -> None:
    early: list[Recordable] = [scored(event(1, "b")), letter(2), ignored(3)]
    done = await ledger.write(early)
    assert [o for o, _ in done.outcomes] == [Outcome.STORED, Outcome.DEAD_LETTER, Outcome.IGNORED]
    assert await ledger.sums() == {}
    await ledger.write(
        [scored(event(0, "a")), scored(event(5, "c"))], move=ledger.move(4, settled=done.outcomes)
    )
    found = await account(database_url, TOPIC)
    assert found.outcomes == {"stored": 2, "dead_letter(invalid_json)": 1, "ignored(no_content)": 1}
    assert (found.records, found.interactions) == (4, 3), "the one at offset 5 is written, not passed"
    await ledger.write([], move=ledger.move(6, records=1, settled=[STORED]))
    found = await account(database_url, TOPIC)
    assert (found.records, found.holes, found.outcomes["stored"]) == (5, 1, 3)


async def test_many_items_of_one_record(ledger: Ledger, database_url: str) -> None:
    items: list[Recordable] = [
        scored(event(0, "a", item=0)),
        unscored(event(0, "b", item=1), "empty_response"),
        ignored(0, item=2),
        letter(0, item=3),
        letter(0, item=4, reason="missing_field"),
        scored(event(0, item=5)),
        scored(event(0, item=6)),
    ]
    await ledger.write(items, to=1)
    found = await account(database_url, TOPIC)
    assert_sums(found, records=1)
    assert found.outcomes == {
        "stored": 3,
        "unscored(empty_response)": 1,
        "ignored(no_content)": 1,
        "dead_letter(invalid_json)": 1,
        "dead_letter(missing_field)": 1,
    }


async def test_an_unknown_commit_that_was_made_is_repeated_without_counting_twice(
    ledger: Ledger, database_url: str
) -> None:
    items: list[Recordable] = [
        scored(event(0, "a"), unsafe=True),
        letter(1),
        scored(event(2, "a")),
        unscored(event(3)),
    ]
    move = ledger.move(4)
    first = await ledger.write(items, move=move)
    again = await ledger.write(items, move=move)
    assert again.outcomes == first.outcomes
    assert (again.replayed, again.new, again.findings) == (2, (), ())
    found = await account(database_url, TOPIC)
    assert_sums(found, records=4)
    assert found.items == 4
    assert await ledger.value("SELECT count(*) FROM outbox WHERE topic = 'sentinel.dead-letters'") == 1
    await ledger.write([scored(event(4, "e"))], to=5)
    assert_sums(await account(database_url, TOPIC), records=5)


async def test_an_unknown_commit_that_was_not_made(ledger: Ledger, database_url: str) -> None:
    move = ledger.move(1)
    async with ledger.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        entries = [Entry(scored(event(0, "a")), True)]
        await flush(
            conn,
            [move],
            entries,
            now=NOW,
            announce=lambda *_: (),
            dead_letter_rows=lambda _: None,
            code_version="1",
        )
        await transaction.rollback()
    assert (await ledger.write([scored(event(0, "a"))], move=move)).outcomes == (STORED,)
    assert_sums(await account(database_url, TOPIC), records=1)


@pytest.mark.parametrize("how", ["epoch", "position", "gone"])
async def test_who_is_not_the_owner_writes_nothing(
    engine: AsyncEngine, ledger: Ledger, database_url: str, how: str
) -> None:
    other = await Ledger(engine, partition=1).take()
    await ledger.write([scored(event(0, "a"))], to=1)
    if how == "epoch":
        await Ledger(engine).take()
    elif how == "position":
        await ledger.fetch("UPDATE consumer_offsets SET next_offset = 9 WHERE partition = 0")
    else:
        await ledger.fetch("DELETE FROM consumer_offsets WHERE partition = 0")
    before = await account(database_url, TOPIC)
    moves = [ledger.move(2), other.move(1)]
    entries = [
        Entry(scored(event(1, "b")), True),
        Entry(scored(event(0, "c", partition=1)), True),
        Entry(letter(1), True),
    ]
    with pytest.raises(LostPartitionsError) as lost:
        async with ledger.connect() as conn:
            await flush(
                conn,
                moves,
                entries,
                now=NOW,
                announce=lambda *_: (),
                dead_letter_rows=lambda _: None,
                code_version="1",
            )
    assert lost.value.partitions == {(TOPIC, 0)}
    assert await account(database_url, TOPIC) == before
    await other.write([scored(event(0, "c", partition=1))], to=1)


async def test_a_takeover_waits_for_the_flush_under_way_and_sees_its_offset(
    engine: AsyncEngine, ledger: Ledger
) -> None:
    async with ledger.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await flush(
            conn,
            [ledger.move(1)],
            [Entry(scored(event(0, "a")), True)],
            now=NOW,
            announce=lambda *_: (),
            dead_letter_rows=lambda _: None,
            code_version="1",
        )
        successor = Ledger(engine)
        taking = asyncio.create_task(successor.take())
        await asyncio.sleep(0.2)
        assert not taking.done()
        await transaction.commit()
    await taking
    assert successor.next_offset == 1
    with pytest.raises(LostPartitionsError):
        await ledger.write([scored(event(1, "b"))], move=ledger.move(2, base=1))


async def test_a_flush_that_meets_a_takeover_under_way_is_fenced(ledger: Ledger) -> None:
    async with ledger.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("UPDATE consumer_offsets SET epoch = epoch + 1")
        writing = asyncio.create_task(ledger.write([scored(event(0, "a"))], to=1))
        await asyncio.sleep(0.2)
        assert not writing.done()
        await transaction.commit()
    with pytest.raises(LostPartitionsError):
        await writing
    assert await ledger.value("SELECT count(*) FROM event_keys") == 0


async def test_a_missing_day_is_told_apart_and_can_be_made(ledger: Ledger, database_url: str) -> None:
    later = NOW + dt.timedelta(days=40)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await ledger.write([scored(event(0, "a"))], to=1, now=later)
    assert classify(caught.value) == "missing_partition"
    async with ledger.connect() as conn:
        await create_missing(conn, later.date())
    assert (await ledger.write([scored(event(0, "a"))], to=1, now=later)).outcomes == (STORED,)
    assert_sums(await account(database_url, TOPIC), records=1)


async def test_an_allowance_is_spent_by_records_passed(ledger: Ledger) -> None:
    await ledger.fetch("UPDATE consumer_offsets SET bad_allowance = 5")
    await ledger.write([letter(0)])
    assert await ledger.value("SELECT bad_allowance FROM consumer_offsets") == 5
    move = ledger.move(3)
    for _ in range(2):
        await ledger.write([letter(0), letter(1), letter(2)], move=move)
    assert await ledger.value("SELECT bad_allowance FROM consumer_offsets") == 2
    await ledger.write([letter(n) for n in range(3, 9)], to=9)
    assert await ledger.value("SELECT bad_allowance FROM consumer_offsets") == 0


async def test_the_seeds_view_shows_the_rows(ledger: Ledger) -> None:
    await ledger.write(
        [scored(event(0, "a")), scored(event(1, "b", response="Bad."), unsafe=True), unscored(event(2, "c"))],
        to=3,
    )
    entries = await ledger.fetch("SELECT * FROM data_entries")
    assert len(entries) == 3
    assert {"In hot water.", "Bad."} <= {str(value) for entry in entries for value in entry.values()}


async def test_several_partitions_move_in_one_flush(engine: AsyncEngine, ledger: Ledger) -> None:
    owners = [ledger, *[await Ledger(engine, partition=n).take() for n in (2, 1)]]
    moves: list[Move] = [owner.move(2) for owner in owners]
    entries = [Entry(scored(event(n, partition=owner.partition)), True) for n in range(2) for owner in owners]
    async with ledger.connect() as conn:
        await flush(
            conn,
            moves,
            entries,
            now=NOW,
            announce=lambda *_: (),
            dead_letter_rows=lambda _: None,
            code_version="1",
        )
    rows = await ledger.fetch("SELECT partition, n FROM partition_outcomes ORDER BY partition")
    assert [tuple(row) for row in rows] == [(0, 2), (1, 2), (2, 2)]


# -- replayed dead letters


async def token_of(ledger: Ledger, offset: int, item: int = 0) -> Replay:
    """Prepare the replay of a letter that `Ledger.write` stored."""
    async with ledger.connect() as conn:
        (found,) = [
            s
            for s in await dead_letters.find(conn, dead_letters.Filter(), limit=100)
            if (s.offset, s.item) == (offset, item)
        ]
        record = await dead_letters.get(conn, found.dead_letter_id)
        assert record is not None
        event_id, token = await dead_letters.prepare_replay(conn, record)
    return Replay(event_id, token, item)


async def test_a_replayed_letter_gets_its_own_id_once(ledger: Ledger, database_url: str) -> None:
    await ledger.write([letter(0)], to=1)
    claim = await token_of(ledger, 0)
    done = await ledger.write([scored(event(1), replay=claim), scored(event(2), replay=claim)], to=3)
    assert done.outcomes == (STORED, STORED)
    stored = {r["event_id"] for r in await ledger.fetch("SELECT event_id FROM interactions")}
    assert stored == {claim.event_id, event(2).event_id}, "the second origin is a new event of its own"
    await ledger.fetch("UPDATE consumer_offsets SET next_offset = 1")
    await ledger.take()
    done = await ledger.write([scored(event(1), replay=claim)])
    assert (done.replayed, done.outcomes) == (1, (STORED,)), "read again after a crash it keeps the id"


async def test_a_second_replay_of_a_letter_is_a_duplicate(ledger: Ledger) -> None:
    await ledger.write([letter(0)], to=1)
    claims = [await token_of(ledger, 0) for _ in range(2)]
    assert claims[0].event_id == claims[1].event_id
    for offset, claim in enumerate(claims, 1):
        await ledger.write([scored(event(offset), replay=claim)], to=offset + 1)
    assert await ledger.sums() == {"dead_letter(invalid_json)": 1, "stored": 1, "duplicate(seen)": 1}


async def test_only_the_lost_item_of_a_replayed_record_is_kept(ledger: Ledger, database_url: str) -> None:
    await ledger.write([scored(event(0, item=0)), letter(0, item=1), scored(event(0, item=2))], to=1)
    claim = await token_of(ledger, 0, 1)
    items = [scored(event(1, item=n), replay=claim) for n in range(3)]
    done = await ledger.write(items, to=2)
    not_replayed = (Outcome.IGNORED, "not_replayed")
    assert done.outcomes == (not_replayed, STORED, not_replayed)
    assert_sums(await account(database_url, TOPIC), records=2)


@pytest.mark.parametrize("token", ["", "x" * 57, "0" * 32 + "." + "a" * 24, "é\x00"])
async def test_a_made_up_token_chooses_no_id(ledger: Ledger, token: str) -> None:
    await ledger.write([letter(0)], to=1)
    claim = await token_of(ledger, 0)
    done = await ledger.write([scored(event(1), replay=Replay(claim.event_id, token, 0))], to=2)
    assert done.outcomes == (STORED,)
    assert await ledger.value("SELECT event_id FROM interactions") == event(1).event_id


async def test_a_producers_own_id_is_never_replaced(ledger: Ledger) -> None:
    await ledger.write([letter(0)], to=1)
    claim = await token_of(ledger, 0)
    await ledger.write([scored(event(1, "a"), replay=claim)], to=2)
    assert await ledger.value("SELECT event_id FROM interactions") == event(1, "a").event_id
