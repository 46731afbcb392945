"""What becomes of one record: each of its items goes to the guard or straight to the writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from consumers.tracker import Partition, PartitionTracker, Slot
from daemon.pipeline import Pipeline, decoder, replay_claim
from daemon.recorder import Recorder
from daemon.scoring import Scorer
from sentinel.errors import PoisonError
from sentinel.events import (
    EVENT_ID_HEADER,
    REPLAY_ITEM_HEADER,
    REPLAY_TOKEN_HEADER,
    Headers,
    Ignored,
    Item,
    Origin,
    PromptEvent,
    RawRecord,
    Rejected,
)
from sentinel.ids import event_id_from_log
from sentinel.interactions import DeadLetter, Replay
from sentinel.outcomes import DEAD_LETTER_REASONS, IGNORED_REASONS
from tests.support.recordings import event

CLAIM: Headers = (
    (EVENT_ID_HEADER, b"6f1c7a52-3d0e-5b8e-9a41-8f2d6c1b7e90"),
    (REPLAY_TOKEN_HEADER, b"token"),
    (REPLAY_ITEM_HEADER, b"2"),
)
CLAIMED = Replay(UUID("6f1c7a52-3d0e-5b8e-9a41-8f2d6c1b7e90"), "token", 2)


class Parts:
    """Scorer and recorder that only remember."""

    def __init__(self) -> None:
        self.available = True
        self.free = 7
        self.submitted: list[tuple[PromptEvent, Replay | None]] = []
        self.put_items: list[Any] = []
        self.drained: list[str] = []
        self.slow = ""

    def submit(self, slot: Slot, event: PromptEvent, replay: Replay | None) -> None:
        self.submitted.append((event, replay))

    def put(self, slot: Slot, item: Any) -> None:
        self.put_items.append(item)

    def room(self) -> int:
        return self.free

    async def drain(self, timeout_s: float) -> bool:
        self.drained.append("scorer")
        return self.slow != "scorer"

    async def settled(self, timeout_s: float) -> bool:
        self.drained.append("recorder")
        return self.slow != "recorder"


class Bench:
    def __init__(self, decoded: Sequence[Item] | BaseException) -> None:
        self.parts = Parts()
        self.decoded = decoded
        self.tracker = PartitionTracker(Partition("t", 4), epoch=1, incarnation=2, next_offset=0)
        self.pipeline = Pipeline(
            self._decode,
            cast(Scorer, self.parts),
            cast(Recorder, self.parts),
            max_record_bytes=100,
        )

    def _decode(self, record: RawRecord) -> Sequence[Item]:
        if isinstance(self.decoded, BaseException):
            raise self.decoded
        return self.decoded

    def handle(
        self, *, headers: Headers = (), value: bytes | None = b"{}", key: bytes | None = b"k"
    ) -> tuple[Slot, bool]:
        slot = self.tracker.begin(RawRecord("t", 4, 9, 77, key, value, headers, 2, "cluster"))
        return slot, self.pipeline.handle(slot)


def origin(item: int = 0) -> Origin:
    return Origin("t", 2, 4, 9, item)


def test_items_go_their_ways() -> None:
    first, second = event(9, item=0), event(9, item=3)
    items: list[Item] = [
        first,
        Ignored(origin(1), "no_content"),
        Rejected(origin(2), "missing_field", "no answer"),
        second,
    ]
    bench = Bench(items)
    slot, bad = bench.handle()
    assert bad, "a bad item counts against the flood"
    assert slot.waiting == 4
    assert bench.parts.submitted == [(first, None), (second, None)]
    ignored, dead = bench.parts.put_items
    assert ignored == items[1]
    assert isinstance(dead, DeadLetter)
    assert (dead.origin, dead.reason, dead.detail) == (origin(2), "missing_field", "no answer")
    assert (dead.key, dead.value, dead.timestamp_ms) == (b"k", b"{}", 77)
    assert dead.event_id == event_id_from_log("cluster", "t", 2, 4, 9, 2)


def test_a_sound_record_is_not_bad() -> None:
    bench = Bench([event(9)])
    slot, bad = bench.handle()
    assert not bad
    assert slot.waiting == 1


def test_a_record_that_carries_nothing_ends_in_an_outcome_too() -> None:
    bench = Bench([])
    slot, bad = bench.handle()
    assert not bad
    assert slot.waiting == 1
    assert bench.parts.put_items == [Ignored(origin(), "not_generation")]
    assert "not_generation" in IGNORED_REASONS


def test_a_record_that_cannot_be_read_is_one_dead_letter() -> None:
    bench = Bench(PoisonError("invalid_json", "line 3"))
    slot, bad = bench.handle(headers=(("h", None),))
    assert bad
    assert slot.waiting == 1
    (dead,) = bench.parts.put_items
    assert (dead.reason, dead.detail, dead.error_class, dead.headers) == (
        "invalid_json",
        "line 3",
        "PoisonError",
        (("h", None),),
    )
    assert bench.parts.submitted == []


@pytest.mark.parametrize("error", [ZeroDivisionError("secret text"), RecursionError(), KeyError("x")])
def test_a_decoders_mistake_costs_one_record(error: Exception) -> None:
    bench = Bench(error)
    _, bad = bench.handle()
    assert bad
    (dead,) = bench.parts.put_items
    assert (dead.reason, dead.detail) == ("decoder_error", type(error).__name__)
    assert "decoder_error" in DEAD_LETTER_REASONS


@pytest.mark.parametrize(("size", "bad"), [(99, False), (100, True)])
def test_what_is_too_large_is_not_decoded(size: int, bad: bool) -> None:
    bench = Bench([event(9)])
    _, was_bad = bench.handle(value=b"x" * size, key=b"kk"[: 101 - 100])
    assert was_bad is bad
    if bad:
        (dead,) = bench.parts.put_items
        assert dead.reason == "too_large"
        assert len(dead.value) == size, "it is kept whole"
        assert bench.parts.submitted == []


def test_a_tombstone_has_no_size() -> None:
    bench = Bench([Ignored(origin(), "tombstone")])
    assert bench.handle(value=None, key=None)[1] is False


def test_the_claim_of_a_replay_goes_with_every_event() -> None:
    bench = Bench([event(9, item=0), event(9, item=1)])
    bench.handle(headers=(("other", b"x"), *CLAIM))
    assert [claim for _, claim in bench.parts.submitted] == [CLAIMED, CLAIMED]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        CLAIM[:2],
        CLAIM[1:],
        ((EVENT_ID_HEADER, None), *CLAIM[1:]),
        ((EVENT_ID_HEADER, b"no uuid"), *CLAIM[1:]),
        ((EVENT_ID_HEADER, b"\xff"), *CLAIM[1:]),
        (*CLAIM[:2], (REPLAY_ITEM_HEADER, b"two")),
        (*CLAIM[:2], (REPLAY_ITEM_HEADER, b"")),
        (CLAIM[0], (REPLAY_TOKEN_HEADER, b"\xff\xfe"), CLAIM[2]),
    ],
)
def test_an_unreadable_claim_is_none(headers: Headers) -> None:
    assert replay_claim(headers) is None


def test_of_repeated_headers_the_last_counts() -> None:
    assert replay_claim((*CLAIM, (REPLAY_ITEM_HEADER, b"5"))) == Replay(CLAIMED.event_id, "token", 5)


def test_room_ends_while_the_database_is_away() -> None:
    bench = Bench([])
    assert bench.pipeline.room() == 7
    bench.parts.available = False
    assert bench.pipeline.room() == 0


@pytest.mark.parametrize(("slow", "done"), [("", True), ("scorer", False), ("recorder", False)])
async def test_a_drain_scores_first_and_writes_then(slow: str, done: bool) -> None:
    bench = Bench([])
    bench.parts.slow = slow
    assert await bench.pipeline.drain(1) is done
    assert bench.parts.drained[0] == "scorer"


async def test_what_was_scored_is_written_although_time_ran_out_for_the_rest() -> None:
    bench = Bench([])
    bench.parts.slow = "scorer"
    await bench.pipeline.drain(1)
    assert bench.parts.drained == ["scorer", "recorder"]


def test_each_topic_has_its_own_default_format() -> None:
    asked: list[str | None] = []

    def decode(record: RawRecord, default: str | None) -> list[Item]:
        asked.append(default)
        return []

    bound = decoder(decode, {"a": "otlp_json"}, "native")
    for topic in ("a", "b"):
        bound(RawRecord(topic, 0, 0, 0, None, b""))
    decoder(decode, {})(RawRecord("b", 0, 0, 0, None, b""))
    assert asked == ["otlp_json", "native", None]
