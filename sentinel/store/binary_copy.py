"""New interactions, their texts and their verdicts as PostgreSQL's binary COPY format.

Most fields of a row are the same as in other rows: a verdict has fifteen, and only its event differs from one to the
next. The driver encodes each field of each row. Here fields that repeat together are encoded once and then copied as
bytes, which halves the processor time of a flush (`python -m benchmarks.path --only all_tables`).

Format: PostgreSQL's documentation of COPY, "Binary Format". A field is its length in four bytes and its value; the
length -1 is NULL. tests/integration/flush/test_columns.py reads every column back.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import asyncpg

from sentinel.events import PromptEvent
from sentinel.interactions import Flag, Interaction
from sentinel.outcomes import Outcome
from sentinel.store.rows import INTERACTION_COLUMNS, TEXT_COLUMNS, VERDICT_COLUMNS, json_of, messages_json
from sentinel.verdicts import Label, Verdict

NewRow = tuple[UUID, Interaction, bool]
"""The id in the store, the interaction, and whether that id is derived because the producer reused its own."""

_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
"""Signature, flags, and length of the header's extension."""

_END: Final = struct.pack("!h", -1)
_NULL: Final = struct.pack("!i", -1)
_TRUE: Final = struct.pack("!ib", 1, 1)
_FALSE: Final = struct.pack("!ib", 1, 0)
_EMPTY: Final = struct.pack("!i", 0)
_FIRST_DAY: Final = dt.date(2000, 1, 1).toordinal()
_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""Day and time 0 of PostgreSQL."""

_EPOCH_MS: Final = 946_684_800_000
_YEAR_10000_MS: Final = 253_402_300_800_000
_TEXT_TYPE: Final = 25
"""Object id of the type text, which an array names."""

_int2: Final = struct.Struct("!ih").pack
_int4: Final = struct.Struct("!ii").pack
_int8: Final = struct.Struct("!iq").pack
_float4: Final = struct.Struct("!if").pack
_length: Final = struct.Struct("!i").pack

_NUL_REPLACED = Flag.NUL_REPLACED.value
_WINDOWED = Flag.WINDOWED.value
_COLLIDED = Flag.ID_COLLISION.value
_UNIDENTIFIED = Flag.UNIDENTIFIED.value
"""As plain numbers: arithmetic of flags makes an object each time."""


def interactions(day: dt.date, rows: Sequence[NewRow], now: dt.datetime) -> bytes:
    """`INTERACTION_COLUMNS` of each row. Raises `asyncpg.DataError` for a value that has no encoding."""
    return _copied(_interaction_fields(_before_event(len(INTERACTION_COLUMNS), day), rows, now))


def texts(day: dt.date, rows: Sequence[NewRow]) -> bytes:
    """`TEXT_COLUMNS` of each row. Raises `asyncpg.DataError` for a value that has no encoding."""
    return _copied(_text_fields(_before_event(len(TEXT_COLUMNS), day), rows))


def verdicts(day: dt.date, rows: Sequence[NewRow]) -> bytes:
    """`VERDICT_COLUMNS` of each verdict. Raises `asyncpg.DataError` for a value that has no encoding."""
    return _copied(_verdict_fields(_before_event(len(VERDICT_COLUMNS), day), rows))


def _copied(rows: Iterable[tuple[bytes, ...]]) -> bytes:
    pieces = [_HEAD]
    try:
        for fields in rows:
            pieces += fields
    except (ValueError, TypeError, AttributeError, OverflowError, struct.error) as error:
        # As the driver says it of a statement's arguments: one bad value must not look like a mistake of the
        # program, which stops the service.
        raise asyncpg.DataError(f"a value cannot be encoded: {type(error).__name__}") from error
    pieces.append(_END)
    return b"".join(pieces)


def _before_event(width: int, day: dt.date) -> bytes:
    """The number of fields, the day, and the length of the event's id, which follows."""
    return struct.pack("!hiii", width, 4, day.toordinal() - _FIRST_DAY, 16)


def _interaction_fields(
    before: bytes, rows: Sequence[NewRow], now: dt.datetime
) -> Iterable[tuple[bytes, ...]]:
    for event_id, row, collided in rows:
        event, prompt, response = row.event, row.prompt_verdict, row.response_verdict
        flags = _COLLIDED if collided else 0
        if event.nul_replaced:
            flags |= _NUL_REPLACED
        if not event.identified:
            flags |= _UNIDENTIFIED
        if (prompt is not None and prompt.assessment.windows > 1) or (
            response is not None and response.assessment.windows > 1
        ):
            flags |= _WINDOWED
        yield (
            before,
            event_id.bytes,
            received_at(event.received_ms, now),
            _NULL if event.event_time is None else _moment(event.event_time),
            _described(event.format, event.source, event.tenant, event.model, event.provider),
            _NULL if event.user_ref is None else _text(event.user_ref),
            _NULL if event.conversation_id is None else _text(event.conversation_id),
            _NULL if event.response_id is None else _text(event.response_id),
            _served(event.choice, row.served_model, event.served_by, event.finish_reason),
            _NULL if event.input_tokens is None else _int4(4, event.input_tokens),
            _NULL if event.output_tokens is None else _int4(4, event.output_tokens),
            _NULL if event.trace_id is None else _text(event.trace_id),
            _NULL if event.span_id is None else _text(event.span_id),
            _ended(
                row.outcome,
                row.reason,
                None if prompt is None else prompt.assessment.label,
                None if response is None else response.assessment.label,
                None if response is None else response.assessment.refusal,
                row.unsafe,
                row.prompt_unscored,
                row.policy_version,
                None if response is None else response.guard_model,
                row.sampling_probability,
                flags,
                event.unscanned_parts,
            ),
            _jsonb(json_of(event.attrs)) if event.attrs else _NULL,
        )


@lru_cache(maxsize=4096)
def _described(
    format_: str, source: str | None, tenant: str | None, model: str | None, provider: str | None
) -> bytes:
    return _text(format_) + _nullable(source) + _nullable(tenant) + _nullable(model) + _nullable(provider)


@lru_cache(maxsize=1024)
def _served(choice: int, served_model: str | None, served_by: str | None, finish_reason: str | None) -> bytes:
    return _int2(2, choice) + _nullable(served_model) + _nullable(served_by) + _nullable(finish_reason)


@lru_cache(maxsize=1024)
def _ended(
    outcome: Outcome,
    reason: str,
    prompt: Label | None,
    response: Label | None,
    refusal: bool | None,
    unsafe: bool,
    prompt_unscored: str,
    policy_version: str,
    guard_model: str | None,
    sampling_probability: float,
    flags: int,
    unscanned_parts: int,
) -> bytes:
    return b"".join(
        (
            _text(outcome),
            _text(reason),
            _nullable(prompt),
            _nullable(response),
            _boolean(refusal),
            _boolean(unsafe if outcome is Outcome.STORED else None),
            _text(prompt_unscored),
            _text(policy_version),
            _nullable(guard_model),
            _float4(4, sampling_probability),
            _int4(4, flags),
            _int4(4, unscanned_parts),
        )
    )


def _text_fields(before: bytes, rows: Sequence[NewRow]) -> Iterable[tuple[bytes, ...]]:
    for event_id, row, _ in rows:
        event: PromptEvent = row.event
        yield (
            before,
            event_id.bytes,
            _jsonb(messages_json(event.messages)),
            _text(event.response),
            _text(event.response_extra) if event.response_extra else _EMPTY,
            _jsonb(json_of(event.client_verdicts)) if event.client_verdicts else _NULL,
        )


def _verdict_fields(before: bytes, rows: Sequence[NewRow]) -> Iterable[tuple[bytes, ...]]:
    known: dict[Any, bytes] = {}
    for event_id, row, _ in rows:
        for v in (row.prompt_verdict, row.response_verdict):
            if v is None:
                continue
            # A grammar answers equal texts with the same object, and its address is cheaper to look up than its
            # values. ``rows`` hold it, so that no other one gets that address meanwhile.
            key = (
                id(v.assessment), v.role, v.attempt, v.guard_id, v.score_run, v.guard_model, v.template,
                v.policy_version,
            )  # fmt: skip
            after = known.get(key)
            if after is None:
                after = known[key] = _verdict(v)
            yield (before, event_id.bytes, after)


def _verdict(verdict: Verdict) -> bytes:
    """A verdict's fields after its event's id."""
    a = verdict.assessment
    return b"".join(
        (
            _text(verdict.role),
            _int2(2, verdict.attempt),
            _text(verdict.guard_id),
            _int4(4, verdict.score_run),
            _text(a.label),
            _texts(a.categories),
            _boolean(a.refusal),
            _NULL if a.score is None else _float4(4, a.score),
            _text(a.raw),
            _text(verdict.guard_model),
            _text(verdict.template),
            _text(verdict.policy_version),
            _int2(2, a.windows),
        )
    )


def received_at(milliseconds: int, now: dt.datetime) -> bytes:
    """The record's log timestamp; ``now`` where it has none, or one that is no date: producers may write any."""
    if 0 <= milliseconds < _YEAR_10000_MS:
        return _int8(8, (milliseconds - _EPOCH_MS) * 1000)
    return _moment(now)


def _moment(time: dt.datetime) -> bytes:
    since = time - _EPOCH
    return _int8(8, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _boolean(value: bool | None) -> bytes:
    return _NULL if value is None else _TRUE if value else _FALSE


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _length(len(encoded)) + encoded


def _nullable(value: str | None) -> bytes:
    return _NULL if value is None else _text(value)


def _jsonb(encoded: bytes) -> bytes:
    # Its own format has a version in front, which is 1.
    return _length(len(encoded) + 1) + b"\1" + encoded


def _texts(values: Sequence[str]) -> bytes:
    """``text[]``: dimensions, whether there are NULLs, the elements' type, then their number and lowest index."""
    if not values:
        return struct.pack("!iiii", 12, 0, 0, _TEXT_TYPE)
    body = struct.pack("!iiiii", 1, 0, _TEXT_TYPE, len(values), 1) + b"".join(map(_text, values))
    return _length(len(body)) + body
