"""READ FIRST. What happens to a record: decode -> score -> record -> commit.

    consumers/loop.py     polls partitions that are ready and have room, hands each record to `Pipeline.handle`
    decode                consumers/formats: one record becomes items; what cannot be read is a dead letter
    score                 daemon/scoring.py: events gather into micro-batches for the guard
    record                daemon/recorder.py: one transaction writes rows and moves the partition's offset
    commit                consumers/loop.py tells Kafka's group afterwards

Beside it, behind the offset, daemon/reprompting.py: claim a finding -> re-prompt -> score -> pair. An outage of
the served model therefore never stops monitoring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from consumers.tracker import Slot
from daemon.recorder import Recorder
from daemon.scoring import Scorer
from sentinel import logs
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

Decode = Callable[[RawRecord], Sequence[Item]]
"""One record to its items; raises PoisonError for a record that cannot be read."""

_REPLAY_HEADERS = frozenset({EVENT_ID_HEADER, REPLAY_TOKEN_HEADER, REPLAY_ITEM_HEADER})
_log = logs.get("daemon.pipeline")


class Pipeline:
    """Connects decoding, scoring and recording; implements the consumer loop's `Handler`."""

    def __init__(self, decode: Decode, scorer: Scorer, recorder: Recorder, *, max_record_bytes: int) -> None:
        self._decode = decode
        self._scorer = scorer
        self._recorder = recorder
        self._max_record_bytes = max_record_bytes

    def handle(self, slot: Slot) -> bool:
        """Decode one record and pass each item on. Returns True when the record, or an item of it, was bad."""
        record = slot.record
        try:
            items = self._decode_bounded(slot)
        except PoisonError as error:
            self._recorder.put(slot, dead_letter(record, 0, error.reason, error.detail, error))
            return True
        slot.expect(len(items))
        replay = replay_claim(record.headers) if record.headers else None
        bad = False
        for item in items:
            match item:
                case PromptEvent():
                    self._scorer.submit(slot, item, replay)
                case Ignored():
                    self._recorder.put(slot, item)
                case Rejected(origin=origin, reason=reason, detail=detail):
                    self._recorder.put(slot, dead_letter(record, origin.item, reason, detail, None))
                    bad = True
        return bad

    def room(self) -> int:
        """How many more events may be taken in; 0 while the guard or the database is away."""
        return self._scorer.room() if self._recorder.available else 0

    async def drain(self, timeout_s: float) -> bool:
        """Score and write what was handed out; False when time ran out (it is read again after a restart)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        scored = await self._scorer.drain(timeout_s)
        # What is scored is written also where the guard is too slow for the rest, or it would be asked again.
        return await self._recorder.settled(max(deadline - loop.time(), timeout_s / 4)) and scored

    def _decode_bounded(self, slot: Slot) -> Sequence[Item]:
        record = slot.record
        if slot.size > self._max_record_bytes:
            raise PoisonError(
                "too_large", f"{slot.size} bytes, consumer.max_record_bytes is {self._max_record_bytes}"
            )
        try:
            items = self._decode(record)
        except PoisonError:
            raise
        except Exception as error:
            # A decoder's mistake about one record must not stop the service in a restart loop at that record;
            # it is kept whole as a dead letter and can be replayed after the mend.
            _log.error(
                "A decoder failed; the record became a dead letter.",
                action="decode",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                exc_info=True,
            )
            raise PoisonError("decoder_error", type(error).__name__) from error
        # Every record ends in an outcome, also one that carries nothing of interest.
        return items or (Ignored(_origin(record, 0), "not_generation"),)


def decoder(
    decode: Callable[[RawRecord, str | None], Sequence[Item]],
    topic_formats: Mapping[str, str],
    default_format: str | None = None,
) -> Decode:
    """`consumers.formats.decode` with each topic's own default format, else ``default_format``."""

    def bound(record: RawRecord) -> Sequence[Item]:
        return decode(record, topic_formats.get(record.topic, default_format))

    return bound


def replay_claim(headers: Headers) -> Replay | None:
    """What a replayed dead letter's headers claim, None where they are absent or unreadable."""
    found = {name: value for name, value in headers if name in _REPLAY_HEADERS and value is not None}
    if len(found) < len(_REPLAY_HEADERS):
        return None
    try:
        return Replay(
            UUID(found[EVENT_ID_HEADER].decode()),
            found[REPLAY_TOKEN_HEADER].decode(),
            int(found[REPLAY_ITEM_HEADER]),
        )
    except ValueError:
        return None


def dead_letter(
    record: RawRecord, item: int, reason: str, detail: str, error: BaseException | None
) -> DeadLetter:
    """The dead letter of one item of a record, with all that a replay needs."""
    return DeadLetter(
        origin=_origin(record, item),
        reason=reason,
        detail=detail,
        error_class=type(error).__name__ if error is not None else "PoisonError",
        key=record.key,
        value=record.value,
        headers=record.headers,
        timestamp_ms=record.timestamp_ms,
        event_id=event_id_from_log(
            record.cluster, record.topic, record.incarnation, record.partition, record.offset, item
        ),
    )


def _origin(record: RawRecord, item: int) -> Origin:
    return Origin(record.topic, record.incarnation, record.partition, record.offset, item)
