"""Which items are new: duplicates, reused ids, and what was written before a crash."""

from __future__ import annotations

import asyncio
import datetime as dt

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel import ids
from sentinel.events import Message
from sentinel.interactions import Flag
from sentinel.outcomes import Outcome
from sentinel.store.engine import classify
from tests.support.accounting import account, assert_sums
from tests.support.recordings import NOW, TOPIC, Ledger, event, scored, unscored
from tests.support.waiting import wait_until

pytestmark = pytest.mark.postgres14

STORED = (Outcome.STORED, "")
SEEN = (Outcome.DUPLICATE, "seen")


async def responses(ledger: Ledger) -> list[str]:
    return [r["response"] for r in await ledger.fetch("SELECT response FROM interaction_texts ORDER BY 1")]


async def test_a_new_item_is_stored_with_all_that_belongs_to_it(ledger: Ledger, database_url: str) -> None:
    done = await ledger.write([scored(event(0, "a"), unsafe=True)], to=1)
    assert done.outcomes == (STORED,)
    assert len(done.new) == len(done.findings) == 1
    found = await account(database_url, TOPIC)
    assert_sums(found, records=1)
    assert (found.verdicts, found.findings) == (2, 1)
    (row,) = await ledger.fetch("SELECT * FROM findings")
    assert (row["categories"], row["reprompt_state"]) == (["Violent", "PII"], "pending")
    assert row["finding_id"] == ids.finding_id(ids.event_id_from_response(None, "a", 0))
    assert await ledger.value("SELECT count(*) FROM outbox WHERE topic = 'sentinel.findings'") > 0


async def test_the_same_call_again_is_a_duplicate(ledger: Ledger, database_url: str) -> None:
    await ledger.write([scored(event(0, "a"))], to=1)
    done = await ledger.write([scored(event(1, "a")), scored(event(2, "a"), unsafe=True)], to=3)
    assert done.outcomes == (SEEN, SEEN)
    assert (done.replayed, done.collisions, done.new, done.findings) == (0, 0, (), ())
    assert_sums(await account(database_url, TOPIC), records=3)


async def test_twice_in_one_flush(ledger: Ledger) -> None:
    done = await ledger.write([scored(event(0, "a")), scored(event(1, "a")), scored(event(2, "b"))], to=3)
    assert done.outcomes == (STORED, SEEN, STORED)
    assert await ledger.sums() == {"stored": 2, "duplicate(seen)": 1}


async def test_a_reused_id_with_another_text_is_another_call(ledger: Ledger, database_url: str) -> None:
    await ledger.write([scored(event(0, "a", response="one"))], to=1)
    done = await ledger.write([scored(event(1, "a", response="two"), unsafe=True)], to=2)
    assert done.outcomes == (STORED,)
    assert done.collisions == 1
    assert await responses(ledger) == ["one", "two"]
    flags = [r["flags"] for r in await ledger.fetch("SELECT flags FROM interactions ORDER BY flags")]
    assert flags == [0, Flag.ID_COLLISION]
    stored_id = ids.event_id_from_response(None, "a", 0)
    finding = await ledger.value("SELECT event_id FROM findings")
    assert finding != stored_id
    assert {r["event_id"] for r in await ledger.fetch("SELECT event_id FROM verdicts")} == {
        stored_id,
        finding,
    }
    done = await ledger.write(
        [scored(event(2, "a", response="two")), scored(event(3, "a", response="one"))], to=4
    )
    assert done.outcomes == (SEEN, SEEN)
    assert done.collisions == 0
    assert_sums(await account(database_url, TOPIC), records=4)


async def test_another_question_with_the_same_answer_is_another_call(ledger: Ledger) -> None:
    first, second = event(0, "a", text="one?"), event(1, "a", text="two?")
    done = await ledger.write([scored(first), scored(second)], to=2)
    assert (done.outcomes, done.collisions) == ((STORED, STORED), 1)
    system = event(2, "a", messages=(Message("system", "Be nice."), Message("user", "one?")))
    assert (await ledger.write([scored(system)], to=3)).outcomes == (SEEN,)


async def test_collisions_in_one_flush(ledger: Ledger, database_url: str) -> None:
    texts = ["one", "two", "three", "two", "one", "three"]
    items = [scored(event(n, "a", response=text)) for n, text in enumerate(texts)]
    done = await ledger.write(items, to=6)
    assert done.outcomes == (STORED, STORED, STORED, SEEN, SEEN, SEEN)
    assert done.collisions == 2
    assert await responses(ledger) == ["one", "three", "two"]
    assert_sums(await account(database_url, TOPIC), records=6)


async def test_a_tenants_id_is_its_own(ledger: Ledger) -> None:
    items = [scored(event(n, "a", tenant=tenant)) for n, tenant in enumerate((None, "x", "y", ""))]
    done = await ledger.write(items, to=4)
    assert done.outcomes == (STORED, STORED, STORED, SEEN), "no tenant and an empty one are the same"


async def test_a_duplicate_on_a_later_day_is_one_too(ledger: Ledger) -> None:
    await ledger.write([scored(event(0, "a"))], to=1)
    done = await ledger.write([scored(event(1, "a"))], to=2, now=NOW + dt.timedelta(days=1))
    assert done.outcomes == (SEEN,)


# -- after a crash: rows were written early, the offset did not move


async def test_an_early_row_takes_its_stored_outcome(ledger: Ledger, database_url: str) -> None:
    """Judged again it might end otherwise; what was stored first counts."""
    await ledger.write([scored(event(1, "a")), unscored(event(2, "b"), "unparseable")])
    assert await ledger.sums() == {}
    await ledger.take()
    items = [scored(event(0, "z")), unscored(event(1, "a")), scored(event(2, "b"), unsafe=True)]
    done = await ledger.write(items, to=3)
    assert done.outcomes == (STORED, STORED, (Outcome.UNSCORED, "unparseable"))
    assert (done.replayed, done.findings) == (2, ())
    found = await account(database_url, TOPIC)
    assert_sums(found, records=3)
    assert found.outcomes == {"stored": 2, "unscored(unparseable)": 1}


async def test_an_early_collision_is_found_again(ledger: Ledger, database_url: str) -> None:
    await ledger.write([scored(event(0, "a", response="one"))], to=1)
    await ledger.write([scored(event(2, "a", response="two"))])
    await ledger.take()
    items = [scored(event(1, "a", response="two")), scored(event(2, "a", response="two"))]
    done = await ledger.write(items, to=3)
    assert done.outcomes == (SEEN, STORED)
    assert (done.replayed, done.collisions) == (1, 0)
    assert_sums(await account(database_url, TOPIC), records=3)


@pytest.mark.parametrize("texts", [("one", "one"), ("one", "two"), ("two", "one")])
async def test_the_later_of_two_with_one_id_was_written_first(
    ledger: Ledger, database_url: str, texts: tuple[str, str]
) -> None:
    """The earlier one was still at the guard at the crash; afterwards both come in one flush."""
    early, late = (event(n, "a", response=text) for n, text in enumerate(texts))
    assert (await ledger.write([scored(late)])).outcomes == (STORED,)
    await ledger.take()
    done = await ledger.write([scored(early), scored(late)], to=2)
    same = texts[0] == texts[1]
    assert done.outcomes == (SEEN if same else STORED, STORED)
    assert (done.replayed, done.collisions) == (1, 0 if same else 1)
    assert_sums(await account(database_url, TOPIC), records=2)
    assert await responses(ledger) == sorted(set(texts))


async def test_three_with_one_id_of_which_the_last_two_were_written(
    ledger: Ledger, database_url: str
) -> None:
    first, second, third = (event(n, "a", response=t) for n, t in enumerate(("one", "two", "one")))
    await ledger.write([scored(second), scored(third)])
    await ledger.take()
    done = await ledger.write([scored(first), scored(second), scored(third)], to=3)
    assert done.outcomes == (SEEN, STORED, STORED)
    assert_sums(await account(database_url, TOPIC), records=3)


# -- several writers


async def test_two_writers_that_share_ids_wait_for_each_other(engine: AsyncEngine) -> None:
    """Their keys are taken in one order, whatever the order of the items."""
    one, two = await Ledger(engine).take(), await Ledger(engine, partition=1).take()
    names = [f"n{n}" for n in range(60)]
    for start in range(0, 60, 20):
        part = names[start : start + 20]
        here = [scored(event(start + n, name)) for n, name in enumerate(part)]
        there = [scored(event(start + n, name, partition=1)) for n, name in enumerate(reversed(part))]
        await asyncio.gather(one.write(here, to=start + 20), two.write(there, to=start + 20))
    assert await one.sums() == {"stored": 60, "duplicate(seen)": 60}
    assert await one.value("SELECT count(*) FROM interactions") == 60


async def test_a_writer_waits_for_one_that_rolls_back(engine: AsyncEngine, ledger: Ledger) -> None:
    other = await Ledger(engine, partition=1).take()
    async with ledger.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        key = event(0, "a")
        await conn.execute(
            'INSERT INTO event_keys (event_id, day, hash, topic, incarnation, partition, "offset", item, outcome)'
            " VALUES ($1, '2026-03-01', 'h', 'x', 0, 0, 0, 0, 'stored')",
            key.event_id,
        )
        waiting = asyncio.create_task(other.write([scored(event(0, "a", partition=1))], to=1))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await transaction.rollback()
    assert (await waiting).outcomes == (STORED,)


async def test_a_deadlock_is_an_error_to_repeat(engine: AsyncEngine, ledger: Ledger) -> None:
    first, second = sorted((event(0, "a"), event(1, "b")), key=lambda e: e.event_id.int)
    other = await Ledger(engine, partition=1).take()
    insert = (
        'INSERT INTO event_keys (event_id, day, hash, topic, incarnation, partition, "offset", item, outcome)'
        " VALUES ($1, '2026-03-01', 'h', 'x', 0, 0, 0, 0, 'stored')"
    )
    async with ledger.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(insert, second.event_id)
        items = [
            scored(event(0, first.response_id, partition=1)),
            scored(event(1, second.response_id, partition=1)),
        ]
        waiting = asyncio.create_task(other.write(items, to=2))
        blocked = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        await wait_until(lambda: ledger.value(blocked))
        try:
            await conn.execute(insert, first.event_id)
        except asyncpg.DeadlockDetectedError:
            await transaction.rollback()
            assert (await waiting).outcomes == (STORED, STORED)
            return
        with pytest.raises(asyncpg.DeadlockDetectedError) as caught:
            await waiting
        assert classify(caught.value) == "retry"
        await transaction.rollback()
    assert (await other.write(items, to=2)).outcomes == (STORED, STORED)
