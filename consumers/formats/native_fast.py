"""The hot path: a native record straight from bytes to its event, without the general way's detours.

Most records of an own application are complete, plain and clean. Whatever is not, from a list of parts to U+0000,
gets None here and takes the general way (native.py, drafts.py), which gives the same event; a test holds the two
together.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final

import msgspec
import orjson

from consumers.formats.drafts import MAX_CHOICE, MAX_ROLE, PLACEHOLDERS, marked_as_own, user_ref
from consumers.formats.fields import MAX_COUNT, MAX_NAME, Cleaner, traceparent, utc
from consumers.formats.native import FORMAT, KEYS, verdicts_of
from sentinel.errors import PoisonError
from sentinel.events import Message, Origin, PromptEvent, RawRecord
from sentinel.ids import event_id_from_log, event_id_from_producer, event_id_from_response

_OTHER_FORMATS: Final = frozenset(
    {
        "specversion", "request", "call_type", "resourceSpans", "resourceLogs", "resourceMetrics", "resource_spans",
        "resource_logs",
    }
)  # fmt: skip
"""Keys after which sniffing may decide for another format."""

_LONGEST_PLACEHOLDER: Final = max(map(len, PLACEHOLDERS))


_NO_ATTRS: Final[dict[str, Any]] = {}
"""Of every event without further keys; nothing changes an event. One dict each would be one more object that has left
the processor's cache when its row is written (`python -m benchmarks.path --only all_tables`)."""


# Bounds are the decoder's: its checks cost nothing, and what breaks one takes the general way.
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""What `fields.count` lets through."""

_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
"""What `Cleaner.name` does not cut."""


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ROLE)]
    content: Annotated[str, msgspec.Meta(min_length=1)]


class _Usage(msgspec.Struct, gc=False):
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None


class _Native(msgspec.Struct, gc=False):
    response: str
    messages: list[_Turn] | None = None
    prompt: str | None = None
    id: str | None = None
    time: dt.datetime | None = None
    source: _Name | None = None
    tenant: _Name | None = None
    model: _Name | None = None
    provider: _Name | None = None
    user: str | None = None
    conversation_id: _Name | None = None
    finish_reason: _Name | None = None
    usage: _Usage | None = None
    traceparent: str | None = None
    response_id: _Name | None = None
    choice: Annotated[int, msgspec.Meta(ge=0, le=MAX_CHOICE)] = 0
    served_by: _Name | None = None


class _Known(_Native, forbid_unknown_fields=True, gc=False):
    """Without a key that would have to be kept."""


_KNOWN: Final = msgspec.json.Decoder(_Known)
_NATIVE: Final = msgspec.json.Decoder(_Native)
_RAW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def fast(record: RawRecord, value: bytes) -> PromptEvent | None:
    """The event of a plain record, or None where the general way must decide. Never raises for any bytes."""
    # A backslash is found at memory speed and most events have none; the whole escape takes 1 us a kilobyte.
    if b"\\" in value and b"\\u0000" in value:
        return None
    try:
        return _event(record, _KNOWN.decode(value))
    except msgspec.ValidationError as error:
        if "unknown field" not in str(error):
            return None
    except _UNREADABLE:
        return None
    try:
        return _with_more(record, value)
    except (*_UNREADABLE, orjson.JSONDecodeError, PoisonError):
        return None


def _with_more(record: RawRecord, value: bytes) -> PromptEvent | None:
    keys = _RAW.decode(value)
    if not _OTHER_FORMATS.isdisjoint(keys) or any(key.startswith("gen_ai.") for key in keys):
        return None
    more = {
        key: orjson.loads(bytes(raw)) for key, raw in keys.items() if key not in KEYS or key == "verdicts"
    }
    if marked_as_own(more, more.get("metadata"), more.get("headers")):
        return None
    more = Cleaner().tree(more)
    verdicts = tuple(verdicts_of(more.pop("verdicts", None)))
    return _event(record, _NATIVE.decode(value), more, verdicts)


def _event(
    record: RawRecord,
    event: _Native,
    attrs: dict[str, Any] | None = None,
    verdicts: tuple[dict[str, Any], ...] = (),
) -> PromptEvent | None:
    response = event.response
    if len(response) <= _LONGEST_PLACEHOLDER and response in PLACEHOLDERS:
        return None
    if event.messages:
        turns = []
        for turn in event.messages:
            text = turn.content
            if len(text) <= _LONGEST_PLACEHOLDER and text in PLACEHOLDERS:
                return None
            turns.append(Message(turn.role, text))
        messages = tuple(turns)
    elif event.prompt and event.prompt not in PLACEHOLDERS:
        messages = (Message("user", event.prompt),)
    else:
        return None
    time, choice, tenant, usage = event.time, event.choice, event.tenant or None, event.usage
    if time is not None and time.tzinfo is not dt.UTC:
        time = utc(time)
        if time is None:
            return None
    identified = True
    if event.response_id:
        event_id = event_id_from_response(tenant, event.response_id, choice)
    elif event.id:
        event_id = event_id_from_producer(tenant, event.source or None, event.id, choice)
    else:
        identified = False
        event_id = event_id_from_log(
            record.cluster, record.topic, record.incarnation, record.partition, record.offset, 0
        )
    trace_id, span_id = traceparent(event.traceparent) if event.traceparent else (None, None)
    # By position: msgspec looks for the place of each keyword among all fields, which made this call three times as
    # dear (1 us of an event's 4). tests/unit/consumers/formats holds every field to the general way's.
    return PromptEvent(
        event_id,
        Origin(record.topic, record.incarnation, record.partition, record.offset),
        identified,
        FORMAT,
        messages,
        response,
        "",  # response_extra: only the general way makes one
        record.timestamp_ms,
        time,
        event.source or None,
        tenant,
        event.model or None,
        event.provider or None,
        user_ref(tenant, event.user) if event.user else None,
        event.conversation_id or None,
        event.response_id or None,
        choice,
        event.finish_reason or None,
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        trace_id,
        span_id,
        event.served_by or None,
        verdicts,
        attrs or _NO_ATTRS,
    )
