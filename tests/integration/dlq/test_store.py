"""Dead letters, replay tokens and halts in a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
from uuid import uuid4

import pytest

from sentinel.clock import SystemClock
from sentinel.errors import CommandError
from sentinel.events import Origin
from sentinel.ids import event_id_from_log
from sentinel.store import dead_letters, halts, offsets
from sentinel.store.dead_letters import Filter
from sentinel.store.halts import HaltReason
from tests.integration.dlq.conftest import Connect, letter

NOW = dt.datetime(2026, 11, 21, 10, tzinfo=dt.UTC)
HERE = Origin("llm.events", 0, 0, 900)


async def test_letters_are_written_once_and_whole(connect: Connect) -> None:
    odd = letter(
        1,
        value=b"\x00\xff{",
        key=b"\x00",
        headers=(("a", b"\x00"), ("a", None), ("nul\x00", b"x")),
        detail="nul \x00 and \udcff",
        timestamp_ms=10**17,
    )
    async with connect() as conn:
        first = await dead_letters.insert(conn, [odd, letter(2), letter(2)], now=NOW, code_version="1")
        again = await dead_letters.insert(conn, [letter(2), letter(3)], now=NOW, code_version="1")
        found = await dead_letters.find(conn, Filter(), limit=10)
        records = [await dead_letters.get(conn, one.dead_letter_id) for one in found]
    assert sorted(one.origin.offset for one in first) == [1, 2]
    assert [one.origin.offset for one in again] == [3]
    assert sorted(one.offset for one in found) == [1, 2, 3]
    (record,) = [record for record in records if record is not None and record.summary.offset == 1]
    assert (record.value, record.key) == (b"\x00\xff{", b"\x00")
    assert record.headers == (("a", b"\x00"), ("a", None), ("nul\ufffd", b"x"))
    assert record.summary.detail == "nul \ufffd and ?"
    assert record.summary.first_seen == NOW


async def test_filters(connect: Connect) -> None:
    async with connect() as conn:
        await dead_letters.insert(
            conn,
            [letter(1), letter(2, reason="too_large"), letter(3, topic="other"), letter(4, first_seen=NOW)],
            now=NOW - dt.timedelta(hours=3),
            code_version="1",
        )

        async def offsets_of(wanted: Filter) -> list[int]:
            return sorted(one.offset for one in await dead_letters.find(conn, wanted, limit=10))

        assert await offsets_of(Filter(reason="too_large")) == [2]
        assert await offsets_of(Filter(topic="other")) == [3]
        assert await offsets_of(Filter(since=NOW - dt.timedelta(hours=1))) == [4]
        assert await offsets_of(Filter(until=NOW - dt.timedelta(hours=1))) == [1, 2, 3]
        assert await offsets_of(Filter(replayed=True)) == []
        assert await offsets_of(Filter(replayed=False)) == [1, 2, 3, 4]
        assert len(await dead_letters.find(conn, Filter(), limit=2)) == 2
        assert await dead_letters.count_by_reason(conn) == {"invalid_json": 3, "too_large": 1}


async def test_a_token_is_honoured_once_and_at_one_place(connect: Connect) -> None:
    async with connect() as conn:
        await dead_letters.insert(conn, [letter(1, item=2)], now=NOW, code_version="1")
        (found,) = await dead_letters.find(conn, Filter(), limit=1)
        record = await dead_letters.get(conn, found.dead_letter_id)
        assert record is not None
        event_id, token = await dead_letters.prepare_replay(conn, record)
        assert event_id == event_id_from_log("", "llm.events", 0, 0, 1, 2)
        consume = dead_letters.consume_replay_token
        assert not await consume(conn, token, uuid4(), HERE)
        assert not await consume(conn, token[:-1] + "A", event_id, HERE) or token.endswith("A")
        assert not await consume(conn, f"{uuid4().hex}{token[32:]}", event_id, HERE)
        for junk in ("", "x", token + " used by llm.events/0/0/900", token + "\n", "\x00" * 57, "é" * 57):
            assert not await consume(conn, junk, event_id, HERE)
        assert await consume(conn, token, event_id, HERE)
        # The same record again after a crash: the same answer. Another record: no.
        assert await consume(conn, token, event_id, HERE)
        assert not await consume(conn, token, event_id, Origin("llm.events", 0, 0, 901))
        assert not await consume(conn, token + " used by llm.events/0/0/900", event_id, HERE)
        # A later replay does not take the first one's id away.
        again_id, later = await dead_letters.prepare_replay(conn, record)
        assert (again_id, later != token) == (event_id, True)
        assert await consume(conn, token, event_id, HERE)
        assert await consume(conn, later, event_id, Origin("llm.events", 0, 0, 902))
        for _ in range(30):
            await dead_letters.prepare_replay(conn, record)
        assert not await consume(conn, token, event_id, HERE)  # kept for so many replays, not for ever


async def test_a_known_event_id_is_kept(connect: Connect) -> None:
    known = uuid4()
    async with connect() as conn:
        await dead_letters.insert(conn, [letter(1, event_id=known)], now=NOW, code_version="1")
        (found,) = await dead_letters.find(conn, Filter(), limit=1)
        record = await dead_letters.get(conn, found.dead_letter_id)
        assert record is not None
        assert (await dead_letters.prepare_replay(conn, record))[0] == known
        await conn.execute("DELETE FROM dead_letters")
        with pytest.raises(LookupError):
            await dead_letters.prepare_replay(conn, record)
        assert await dead_letters.get(conn, found.dead_letter_id) is None


async def taken(connect: Connect) -> offsets.TakenPartition:
    async with connect() as conn:
        return await offsets.take_over(
            conn, topic="t", partition=1, cluster_id="old", group_id="g", owner="me", start=7
        )


async def test_a_halt_is_fenced_and_the_first_one_stays(connect: Connect) -> None:
    mine = await taken(connect)
    async with connect() as conn:
        assert not await halts.set_halt(conn, "t", 1, "flood", "late", epoch=mine.epoch - 1)
        assert await halts.read_halts(conn) == []
        assert await halts.set_halt(conn, "t", 1, "flood", "nul \x00", epoch=mine.epoch)
        assert await halts.set_halt(conn, "t", 1, "foreign", "second", epoch=mine.epoch)
        (state,) = await halts.read_halts(conn)
        with pytest.raises(ValueError, match="sorrow"):
            await halts.set_halt(conn, "t", 1, "sorrow", "", epoch=mine.epoch)
    assert (state.halted, state.halted_detail, state.next_offset) == ("flood", "nul \ufffd", 7)
    assert state.halted_at is not None
    assert abs(state.halted_at - SystemClock().now()) < dt.timedelta(minutes=1)


async def test_resume_clears_a_flood_and_nothing_else(connect: Connect) -> None:
    mine = await taken(connect)
    async with connect() as conn:
        for topic, partition, words in (("t", 1, "is not halted"), ("t", 2, "no position is stored")):
            with pytest.raises(CommandError, match=words):
                await halts.resume(conn, topic, partition, allow=1, actor="me")
        await halts.set_halt(conn, "t", 1, HaltReason.FLOOD, "100 in a row", epoch=mine.epoch)
        with pytest.raises(CommandError, match="0 or more"):
            await halts.resume(conn, "t", 1, allow=-1, actor="me")
        with pytest.raises(CommandError, match="dlq resume"):
            await halts.reset(conn, "t", 1, next_offset=0, cluster_id="new", actor="me")
        before = await halts.resume(conn, "t", 1, allow=50, actor="me")
        assert (before.halted, before.halted_detail) == ("flood", "100 in a row")
        row = await conn.fetchrow("SELECT * FROM consumer_offsets")
        assert row is not None
        assert (row["halted"], row["bad_allowance"], row["epoch"], row["next_offset"]) == (
            None,
            50,
            mine.epoch,
            7,
        )
        audit = await conn.fetchrow("SELECT actor, action, subject, detail->>'allow' AS allow FROM audit_log")
    assert audit is not None
    assert tuple(audit) == ("me", "dlq resume", "t/1", "50")


async def test_reset_accepts_the_log_that_is_there(connect: Connect) -> None:
    mine = await taken(connect)
    async with connect() as conn:
        with pytest.raises(CommandError, match="needs no reset"):
            await halts.reset(conn, "t", 1, next_offset=0, cluster_id="new", actor="me")
        await halts.set_halt(conn, "t", 1, HaltReason.FOREIGN, "beyond the end", epoch=mine.epoch)
        with pytest.raises(CommandError, match="offsets reset"):
            await halts.resume(conn, "t", 1, allow=1, actor="me")
        await halts.reset(conn, "t", 1, next_offset=3, cluster_id="new", actor="me")
        row = await conn.fetchrow("SELECT * FROM consumer_offsets")
        assert row is not None
        assert (row["halted"], row["incarnation"], row["cluster_id"]) == (None, 1, "new")
        assert (row["first_offset"], row["next_offset"], row["epoch"]) == (3, 3, mine.epoch + 1)
        # What the owner of the old log still holds fails its fence.
        assert not await halts.set_halt(conn, "t", 1, HaltReason.FLOOD, "old", epoch=mine.epoch)
        audit = await conn.fetchrow("SELECT action, detail->>'from' AS a, detail->>'to' AS b FROM audit_log")
    assert audit is not None
    assert tuple(audit) == ("offsets reset", "7", "3")
