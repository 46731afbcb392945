"""Becoming the owner: what the store remembers against what the log holds."""

from __future__ import annotations

from typing import Literal

import pytest

from consumers.takeover import FOREIGN, OwnedPartition, check_previous, take_over
from consumers.tracker import Partition
from sentinel.errors import UnavailableError
from sentinel.store.offsets import TakenPartition
from tests.support.memory import MemorySource, MemoryStore, StoredPosition, log_record

P = Partition("t", 0)


async def ignore(_: frozenset[Partition]) -> None:
    """Partitions went."""


async def source_with(records: int, *, beginning: int = 0) -> MemorySource:
    source = MemorySource({P: [log_record(n) for n in range(beginning, records)]})
    source.beginnings[P] = beginning
    await source.start(ignore, lambda _: None)
    return source


class Gaps(list[tuple[Partition, int]]):
    def __call__(self, partition: Partition, records: int) -> None:
        self.append((partition, records))


async def taken(
    source: MemorySource, store: MemoryStore, start: Literal["earliest", "latest"] = "earliest"
) -> tuple[OwnedPartition, Gaps]:
    gaps = Gaps()
    owned = await take_over(source, store.connect, [P], owner="me", group_id="g", start=start, on_gap=gaps)
    return owned[P], gaps


@pytest.mark.parametrize(("start", "expected"), [("earliest", 4), ("latest", 9)])
async def test_a_first_owner_starts_where_the_setting_says(
    start: Literal["earliest", "latest"], expected: int
) -> None:
    source, store = await source_with(9, beginning=4), MemoryStore()
    tracker, gaps = await taken(source, store, start)
    assert (tracker.next_offset, source.positions[P]) == (expected, expected)
    assert gaps == []
    assert tracker.previous_timestamp_ms is None


async def test_a_stored_position_is_sought_one_record_earlier_to_look_at_it() -> None:
    source = await source_with(9)
    store = MemoryStore({P: StoredPosition("memory", 5, last_timestamp_ms=1004)})
    tracker, _ = await taken(source, store)
    assert (tracker.next_offset, source.positions[P], tracker.epoch) == (5, 4, 2)
    assert tracker.previous_timestamp_ms == 1004


@pytest.mark.parametrize(("next_offset", "timestamp"), [(5, None), (4, 1003)])
async def test_there_is_nothing_to_look_at(next_offset: int, timestamp: int | None) -> None:
    """No timestamp was stored, or the record before the position is gone."""
    source = await source_with(9, beginning=4)
    store = MemoryStore({P: StoredPosition("memory", next_offset, last_timestamp_ms=timestamp)})
    tracker, gaps = await taken(source, store)
    assert source.positions[P] == tracker.next_offset == next_offset
    assert gaps == []


async def test_dropped_records_are_a_gap() -> None:
    source = await source_with(9, beginning=4)
    store = MemoryStore({P: StoredPosition("memory", 1, last_timestamp_ms=1000)})
    tracker, gaps = await taken(source, store)
    assert (tracker.next_offset, source.positions[P]) == (4, 4)
    assert gaps == [(P, 3)]
    assert store.gaps == [(P, 1, 4)]
    assert tracker.halted is None


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(StoredPosition("other", 5), id="another cluster"),
        pytest.param(StoredPosition("memory", 10), id="beyond the end"),
        pytest.param(StoredPosition("memory", 5, halted=FOREIGN), id="halted before"),
    ],
)
async def test_a_foreign_log_is_halted_and_not_sought(row: StoredPosition) -> None:
    source, store = await source_with(9), MemoryStore({P: row})
    tracker, gaps = await taken(source, store)
    assert tracker.halted == store.rows[P].halted == FOREIGN
    assert P not in source.positions
    assert gaps == []


async def test_a_partition_that_went_meanwhile_is_left_out() -> None:
    source = await source_with(3)
    source.assigned = frozenset()
    owned = await take_over(
        source, MemoryStore().connect, [P], owner="me", group_id="g", start="earliest", on_gap=Gaps()
    )
    assert owned == {}


async def test_an_outage_is_the_callers() -> None:
    source, store = await source_with(3), MemoryStore(away=True)
    with pytest.raises(UnavailableError):
        await taken(source, store)
    source.away = UnavailableError("no brokers")
    with pytest.raises(UnavailableError):
        await taken(source, MemoryStore())


@pytest.mark.parametrize(
    ("offset", "timestamp", "expected"),
    [(4, 77, "skip"), (4, 78, "foreign"), (3, 77, "skip"), (5, 77, "take"), (5, 99, "take"), (8, 1, "take")],
)
def test_the_record_before_the_position(offset: int, timestamp: int, expected: str) -> None:
    tracker = OwnedPartition(
        TakenPartition(
            topic="t",
            partition=0,
            epoch=1,
            incarnation=0,
            cluster_id="memory",
            next_offset=5,
            last_timestamp_ms=77,
            halted=None,
            bad_allowance=0,
            created=False,
        ),
        5,
    )
    tracker.previous_timestamp_ms = 77
    assert check_previous(tracker, offset, timestamp) == expected
    assert tracker.previous_timestamp_ms is None, "one record is looked at"
