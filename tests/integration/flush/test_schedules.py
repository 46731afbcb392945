"""Random lives of two partitions and their owners against a plain model, on a real server.

A schedule hands records out, finishes items in any order, flushes (also without moving, also with an outcome of
COMMIT that nobody learnt), and kills and replaces owners. The model knows only the log: what each record is.
After every schedule the log is read to its end, and every sum must be exact.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tracker import PartitionTracker, Slot
from daemon.recorder import move_of
from sentinel.interactions import Interaction, Recordable
from sentinel.store.engine import raw_connection
from sentinel.store.flush import Entry, LostPartitionsError, flush
from tests.support.accounting import account, assert_sums
from tests.support.recorder_bench import RecorderBench
from tests.support.recordings import NOW, TOPIC, Ledger, event, ignored, letter, scored, unscored

STEPS = 200
RECORDS = 30
"""Records of one partition; some offsets between them are holes."""


class Log:
    """A fixed log: at each offset a list of items, drawn so that ids repeat within and between partitions."""

    def __init__(self, rng: random.Random, partition: int) -> None:
        self.partition = partition
        self.records: dict[int, list[Recordable]] = {}
        offset = 0
        for _ in range(RECORDS):
            offset += rng.choice((0, 0, 0, 1, 3))
            self.records[offset] = [self._item(rng, offset, n) for n in range(rng.choice((1, 1, 1, 2, 4)))]
            offset += 1
        self.end = max(self.records) + 1

    def _item(self, rng: random.Random, offset: int, item: int) -> Recordable:
        match rng.randrange(10):
            case 0 if self.partition == 0:
                return letter(offset, item=item)
            case 1 if self.partition == 0:
                return ignored(offset, item=item)
            case 2:
                return scored(event(offset, item=item, partition=self.partition))
            case _:
                name = f"n-{rng.randrange(25)}"
                text = rng.choice(("one", "one", "one", "two", "three"))
                made = event(offset, name, item=item, partition=self.partition, response=text)
                return unscored(made) if rng.random() < 0.2 else scored(made, unsafe=rng.random() < 0.2)


class Life(RecorderBench):
    """One owner of one partition, from its takeover until it is killed or fenced.

    Its flushes are those of the real recorder, one at a time.
    """

    def __init__(self, engine: AsyncEngine, log: Log, rng: random.Random) -> None:
        super().__init__(lambda: raw_connection(engine))
        self.engine, self.log, self.rng = engine, log, rng
        self.tracker_now: PartitionTracker | None = None
        self.finished: list[tuple[int, int]] = []
        self.waiting: list[tuple[int, int]] = []
        self.slots: dict[int, Slot] = {}
        self.position = 0
        self.flushes = Counter[str]()

    async def begin(self) -> None:
        ledger = await Ledger(self.engine, partition=self.log.partition).take()
        self.trackers.clear()
        self.tracker_now = self.tracker(
            epoch=ledger.epoch, next_offset=ledger.next_offset, partition=self.log.partition
        )
        self.position = ledger.next_offset
        self.finished, self.waiting = [], []
        self.slots = {}

    def poll(self, most: int) -> None:
        assert self.tracker_now is not None
        for offset in [o for o in self.log.records if o >= self.position][:most]:
            items = self.log.records[offset]
            self.slots[offset] = self.hand_out(self.tracker_now, offset, len(items))
            self.waiting += [(offset, n) for n in range(len(items))]
            self.position = offset + 1

    def finish(self, most: int) -> None:
        self.rng.shuffle(self.waiting)
        done, self.waiting = self.waiting[:most], self.waiting[most:]
        self.finished += done

    async def write(self, most: int) -> None:
        """Put some finished items, and let the recorder write them."""
        done, self.finished = self.finished[:most], self.finished[most:]
        if not done:
            return
        self.flushes["written"] += 1
        async with self.running():
            for offset, item in done:
                self.recorder.put(self.slots[offset], self.log.records[offset][item])
            assert await self.recorder.settled(60)
        if self.lost:
            self.lost.clear()
            self.flushes["fenced"] += 1
            await self.begin()

    async def write_unheard(self, most: int) -> None:
        """A flush whose COMMIT was or was not made; the recorder repeats the very same, or the owner dies."""
        assert self.tracker_now is not None
        done = self.finished[:most]
        made = self.rng.random() < 0.5
        slots = [self.slots[offset] for offset, _ in done]
        for slot in slots:
            slot.in_flush += 1
        plan = self.tracker_now.plan()
        for slot in slots:
            slot.in_flush -= 1
        entries = [
            Entry(self.log.records[o][n], self.tracker_now.passes(self.slots[o], plan)) for o, n in done
        ]
        try:
            async with raw_connection(self.engine) as conn:
                transaction = conn.transaction()
                await transaction.start()
                try:
                    await flush(
                        conn,
                        [move_of(self.tracker_now, plan)],
                        entries,
                        now=NOW,
                        announce=lambda *_: (),
                        dead_letter_rows=lambda _: None,
                        code_version="1",
                    )
                finally:
                    await (transaction.commit() if made else transaction.rollback())
        except LostPartitionsError:
            await self.begin()
            return
        self.flushes["unheard"] += 1
        if self.rng.random() < 0.5:
            await self.write(most)
        else:
            await self.begin()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SENTINEL_TEST_SCHEDULES", "8"))))
async def test_every_schedule_ends_with_exact_sums(engine: AsyncEngine, database_url: str, seed: int) -> None:
    rng = random.Random(seed)
    lives = [Life(engine, Log(rng, partition), rng) for partition in (0, 1)]
    rivals = [Life(engine, life.log, rng) for life in lives]
    for life in (*lives, *rivals):
        await life.begin()
    for _ in range(STEPS):
        life = rng.choice((*lives, *rivals))
        match rng.randrange(12):
            case 0 | 1 | 2 | 3:
                life.poll(rng.randrange(1, 5))
            case 4 | 5 | 6:
                life.finish(rng.randrange(1, 8))
            case 7 | 8 | 9:
                await life.write(rng.randrange(1, 10))
            case 10:
                await life.write_unheard(rng.randrange(1, 6))
            case _:
                await life.begin()
        await check_prefix(engine, lives)
    for life in lives:
        await life.begin()
        for _ in range(1000):
            life.poll(3)
            life.finish(5)
            await life.write(6)
            if not life.waiting and not life.finished and life.position >= life.log.end:
                break
        assert life.tracker_now is not None
        assert life.tracker_now.next_offset == life.log.end
    found = await account(database_url, TOPIC)
    assert_sums(found, records=2 * RECORDS)
    assert found.items == sum(len(items) for life in lives for items in life.log.records.values())
    kept = {
        item.event.event_id if not item.event.identified else (item.event.response_id, item.event.response)
        for life in lives
        for items in life.log.records.values()
        for item in items
        if isinstance(item, Interaction)
    }
    assert found.interactions == len(kept), "one row for each call, however often it was reported"
    flushes = sum((life.flushes for life in (*lives, *rivals)), Counter[str]())
    assert flushes["written"] > 10
    assert flushes["unheard"] + flushes["fenced"] > 0


async def check_prefix(engine: AsyncEngine, lives: list[Life]) -> None:
    """At any moment the sums are those of the records before the stored offset, no more and no less."""
    async with raw_connection(engine) as conn:
        for life in lives:
            await _check_partition(conn, life.log)


async def _check_partition(conn: asyncpg.Connection[asyncpg.Record], log: Log) -> None:
    row = await conn.fetchrow(
        "SELECT next_offset, records, holes FROM consumer_offsets WHERE partition = $1", log.partition
    )
    assert row is not None
    passed = [offset for offset in log.records if offset < row["next_offset"]]
    items = await conn.fetchval(
        "SELECT coalesce(sum(n), 0)::int FROM partition_outcomes WHERE partition = $1", log.partition
    )
    assert row["records"] == len(passed)
    assert row["holes"] == row["next_offset"] - len(passed)
    assert items == sum(len(log.records[offset]) for offset in passed)
    missing = await conn.fetchval(
        "SELECT count(*) FROM event_keys k WHERE NOT EXISTS (SELECT FROM interactions i"
        " WHERE i.event_id = k.event_id)"
    )
    assert missing == 0
