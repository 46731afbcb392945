"""Progress of one partition: it never passes what is not written, and what it passes adds up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from consumers.tracker import OutcomeKey, Partition, PartitionTracker, Slot
from sentinel.events import RawRecord
from sentinel.outcomes import Outcome

STORED: OutcomeKey = (Outcome.STORED, "")
IGNORED: OutcomeKey = (Outcome.IGNORED, "no_content")


def tracker_at(next_offset: int = 0) -> PartitionTracker:
    return PartitionTracker(Partition("t", 3), epoch=7, incarnation=1, next_offset=next_offset)


def record(offset: int, *, size: int = 10, timestamp_ms: int = 500) -> RawRecord:
    return RawRecord("t", 3, offset, timestamp_ms, b"k" * 2, b"v" * (size - 2))


def write(slot: Slot, outcome: OutcomeKey = STORED) -> None:
    slot.in_flush += 1
    slot.settle(outcome)


def test_nothing_handed_out_plans_nothing() -> None:
    plan = tracker_at(5).plan()
    assert (plan.base, plan.next_offset, plan.records, plan.holes) == (5, 5, 0, 0)
    assert plan.settled == Counter()


def test_the_head_holds_back_what_is_written_behind_it() -> None:
    tracker = tracker_at()
    head, tail = tracker.begin(record(0)), tracker.begin(record(1))
    write(tail)
    assert tracker.plan().records == 0
    head.in_flush += 1
    plan = tracker.plan()
    assert (plan.next_offset, plan.records) == (2, 2)
    assert plan.settled == Counter({STORED: 1}), "what this flush writes is counted from its entries"
    head.in_flush -= 1
    assert tracker.plan().records == 0, "the flush failed"


def test_a_record_of_many_items_is_passed_with_its_last() -> None:
    tracker = tracker_at()
    slot = tracker.begin(record(0))
    slot.expect(3)
    write(slot)
    write(slot, IGNORED)
    assert tracker.plan().records == 0
    slot.in_flush += 1
    plan = tracker.plan()
    assert plan.records == 1
    assert plan.settled == Counter({STORED: 1, IGNORED: 1})


def test_offsets_that_were_never_handed_out_are_holes() -> None:
    tracker = tracker_at(10)
    for offset in (12, 13, 20):
        write(tracker.begin(record(offset)))
    plan = tracker.plan()
    assert (plan.next_offset, plan.records, plan.holes) == (21, 3, 8)
    tracker.advance(plan)
    assert (tracker.next_offset, tracker.span, tracker.buffered_bytes) == (21, 0, 0)


def test_the_last_passed_timestamp_is_remembered_where_there_is_one() -> None:
    tracker = tracker_at()
    write(tracker.begin(record(0, timestamp_ms=7)))
    assert tracker.plan().last_timestamp_ms == 7
    write(tracker.begin(record(1, timestamp_ms=-1)))
    assert tracker.plan().last_timestamp_ms is None


def test_dropping_forgets_all() -> None:
    tracker = tracker_at()
    write(tracker.begin(record(0)))
    tracker.drop()
    assert not tracker.alive
    assert (tracker.span, tracker.buffered_bytes, tracker.plan().records) == (0, 0, 0)


@given(
    gaps=st.lists(st.integers(0, 3), min_size=1, max_size=25),
    items=st.lists(st.integers(0, 4), min_size=25, max_size=25),
    data=st.data(),
)
def test_any_order_of_writing_adds_up(gaps: list[int], items: list[int], data: st.DataObject) -> None:
    """Random hand-outs, batches, failures and partial writes against a plain model."""
    start = 100
    tracker = tracker_at(start)
    offset, slots = start, []
    for gap, expected in zip(gaps, items, strict=False):
        offset += gap
        slot = tracker.begin(record(offset))
        slot.expect(expected)
        slots.append(slot)
        offset += 1
    open_items = [slot for slot in slots for _ in range(slot.waiting)]
    total = len(open_items)
    open_items = data.draw(st.permutations(open_items))
    written: Counter[int] = Counter()
    passed_records = holes = 0
    counted: Counter[OutcomeKey] = Counter()
    while True:
        batch = [open_items.pop() for _ in range(min(len(open_items), data.draw(st.integers(0, 7))))]
        for slot in batch:
            slot.in_flush += 1
        advance, fails = data.draw(st.booleans()) or not open_items, bool(batch) and data.draw(st.booleans())
        before = tracker.next_offset
        plan = tracker.plan() if advance else None
        assert tracker.next_offset == before, "planning changes nothing"
        if fails:
            for slot in batch:
                slot.in_flush -= 1
            open_items += batch
            continue
        passing = Counter(plan.settled if plan else {})
        for slot in batch:
            if plan is not None and tracker.passes(slot, plan):
                passing[STORED] += 1
            slot.settle(STORED)
            written[slot.record.offset] += 1
        if plan is not None:
            tracker.advance(plan)
            passed_records += plan.records
            holes += plan.holes
            counted += passing
        for slot, expected in zip(slots, items, strict=False):
            if slot.record.offset < tracker.next_offset:
                assert written[slot.record.offset] == expected, "passed, and not all of it is written"
        assert passed_records + holes == tracker.next_offset - start
        assert tracker.span == sum(slot.record.offset >= tracker.next_offset for slot in slots)
        if plan is not None and not open_items:
            break
    assert tracker.next_offset == slots[-1].record.offset + 1
    assert passed_records == len(slots)
    assert counted == Counter({STORED: total} if total else {})
    assert tracker.buffered_bytes == 0
