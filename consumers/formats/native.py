"""The product's own JSON event, and the same with dotted OpenTelemetry keys left to otlp.py.

Required: ``response``, and ``messages`` or ``prompt``. This is the hot path: a record without unknown keys is
decoded straight into structs; anything else takes the general way, with the same result.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from consumers.formats.drafts import (
    MAX_CHOICE,
    MAX_ROLE,
    PLACEHOLDERS,
    Answer,
    Draft,
    Outcome,
    Skip,
    marked_as_own,
    user_ref,
)
from consumers.formats.fields import MAX_NAME, count, mapping, moment, name, traceparent, utc
from consumers.formats.parts import Content
from sentinel.errors import PoisonError
from sentinel.events import Message, Origin, PromptEvent, RawRecord
from sentinel.ids import event_id_from_log, event_id_from_producer, event_id_from_response

FORMAT: Final = "native"
REQUIRED: Final = frozenset({"response", "messages", "prompt"})
KEYS: Final = frozenset(
    {
        "response", "messages", "prompt", "id", "time", "source", "tenant", "model", "provider", "user",
        "conversation_id", "finish_reason", "usage", "traceparent", "verdicts", "response_id", "choice", "served_by",
    }
)  # fmt: skip


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str
    content: str


class _Usage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Native(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    response: str
    messages: list[_Turn] | None = None
    prompt: str | None = None
    id: str | None = None
    time: dt.datetime | None = None
    source: str | None = None
    tenant: str | None = None
    model: str | None = None
    provider: str | None = None
    user: str | None = None
    conversation_id: str | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None
    traceparent: str | None = None
    response_id: str | None = None
    choice: int = 0
    served_by: str | None = None


_DECODER: Final = msgspec.json.Decoder(_Native)


def fast(record: RawRecord, value: bytes) -> PromptEvent | None:
    """The event of a plain record, or None where the general way must decide. Never raises for any bytes."""
    # A backslash is found at memory speed and most events have none; the whole escape takes 1 us a kilobyte.
    if b"\\" in value and b"\\u0000" in value:
        return None
    try:
        event = _DECODER.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if event.messages:
        messages = tuple([Message(turn.role, turn.content) for turn in event.messages if turn.content])
    elif event.prompt:
        messages = (Message("user", event.prompt),)
    else:
        return None
    time = event.time
    if time is not None and time.tzinfo is not dt.UTC:
        time = utc(time)
    choice, tenant, usage = event.choice, event.tenant or None, event.usage
    if (
        not messages
        or len(messages) < len(event.messages or ())
        or (time is None and event.time is not None)
        or not 0 <= choice <= MAX_CHOICE
        or event.response in PLACEHOLDERS
        or (len(value) > MAX_NAME and _has_long_name(event))
    ):
        return None
    for message in messages:
        if message.text in PLACEHOLDERS or not 0 < len(message.role) <= MAX_ROLE:
            return None
    if event.response_id:
        event_id, identified = event_id_from_response(tenant, event.response_id, choice), True
    elif event.id:
        event_id, identified = event_id_from_producer(tenant, event.source or None, event.id, choice), True
    else:
        event_id, identified = (
            event_id_from_log(
                record.cluster, record.topic, record.incarnation, record.partition, record.offset, 0
            ),
            False,
        )
    trace_id, span_id = traceparent(event.traceparent) if event.traceparent else (None, None)
    return PromptEvent(
        event_id=event_id,
        origin=Origin(record.topic, record.incarnation, record.partition, record.offset),
        identified=identified,
        format=FORMAT,
        messages=messages,
        response=event.response,
        received_ms=record.timestamp_ms,
        event_time=time,
        source=event.source or None,
        tenant=tenant,
        model=event.model or None,
        provider=event.provider or None,
        user_ref=user_ref(tenant, event.user) if event.user else None,
        conversation_id=event.conversation_id or None,
        response_id=event.response_id or None,
        choice=choice,
        finish_reason=event.finish_reason or None,
        input_tokens=count(usage.input_tokens) if usage else None,
        output_tokens=count(usage.output_tokens) if usage else None,
        trace_id=trace_id,
        span_id=span_id,
        served_by=event.served_by or None,
    )


def _has_long_name(event: _Native) -> bool:
    names = (
        event.source, event.tenant, event.model, event.provider, event.conversation_id, event.response_id,
        event.finish_reason, event.served_by,
    )  # fmt: skip
    return any(len(value) > MAX_NAME for value in names if value)


def looks_native(obj: dict[str, Any]) -> bool:
    """Whether an object without other signs was meant to be this format."""
    return "response" in obj and ("messages" in obj or "prompt" in obj)


def read(obj: dict[str, Any]) -> Outcome:
    """One event from a parsed object.

    Raises:
        PoisonError: ``missing_field`` or ``invalid_field`` where prompt or response cannot be read.
    """
    if marked_as_own(obj, obj.get("metadata"), obj.get("headers")):
        return Skip("own_traffic")
    usage = mapping(obj.get("usage"))
    trace_id, span_id = traceparent(obj.get("traceparent"))
    draft = Draft(
        format=FORMAT,
        answers=[Answer(_response(obj), count(obj.get("choice")) or 0, name(obj.get("finish_reason")))],
        response_id=name(obj.get("response_id")),
        producer_id=name(obj.get("id")),
        source=name(obj.get("source")),
        tenant=name(obj.get("tenant")),
        model=name(obj.get("model")),
        provider=name(obj.get("provider")),
        user=name(obj.get("user")),
        conversation_id=name(obj.get("conversation_id")),
        event_time=moment(obj.get("time")),
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        trace_id=trace_id,
        span_id=span_id,
        served_by=name(obj.get("served_by")),
        client_verdicts=_verdicts(obj.get("verdicts")),
        attrs={key: value for key, value in obj.items() if key not in KEYS},
    )
    _read_prompt(draft, obj)
    # A time that nobody can read is data of the producer: it is kept, not a reason to lose the event.
    if draft.event_time is None and obj.get("time") is not None:
        draft.attrs["time"] = obj["time"]
    return draft


def _response(obj: dict[str, Any]) -> Content:
    response = obj.get("response")
    if response is None:
        raise PoisonError("missing_field", "response")
    content = Content()
    if isinstance(response, dict) and "role" in response:
        content.message(response)
        content.present = True
    elif isinstance(response, str | list):
        content.add(response)
    else:
        raise PoisonError("invalid_field", "response is neither text nor a list of parts")
    return content


def _read_prompt(draft: Draft, obj: dict[str, Any]) -> None:
    turns = obj.get("messages")
    if turns is None or (turns == [] and obj.get("prompt")):
        prompt = obj.get("prompt")
        if not isinstance(prompt, str):
            raise PoisonError("missing_field" if prompt is None else "invalid_field", "messages or prompt")
        draft.say("user", prompt)
    elif isinstance(turns, list):
        for turn in turns:
            if not isinstance(turn, dict):
                raise PoisonError("invalid_field", "messages holds something that is no object")
            content = Content()
            content.message(turn)
            draft.turn(name(turn.get("role")), content)
    else:
        raise PoisonError("invalid_field", "messages is not a list")
    if not draft.messages:
        raise PoisonError("missing_field", "messages hold no text")


def _verdicts(value: Any) -> list[dict[str, Any]]:
    return [verdict for verdict in value if isinstance(verdict, dict)] if isinstance(value, list) else []
