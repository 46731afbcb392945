"""Interactions as rows: for COPY where every row is new, as column arrays for ``INSERT … SELECT FROM unnest(…)``.

Both are one execution a flush. COPY costs the client less, since asyncpg asks of every element of an array
whether it is an array itself, and the server less, since it plans nothing; it knows no ON CONFLICT.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import orjson

from sentinel.errors import FatalError
from sentinel.events import Message, PromptEvent
from sentinel.interactions import Flag, Interaction
from sentinel.outcomes import Outcome
from sentinel.verdicts import Label, Role, Verdict

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_YEAR_10000_MS = 253_402_300_800_000
_encode_messages = msgspec.json.Encoder().encode

INTERACTION_COLUMNS = (
    "day", "event_id", "received_at", "event_time", "format", "source", "tenant", "model", "provider", "user_ref",
    "conversation_id", "response_id", "choice", "served_model", "served_by", "finish_reason", "input_tokens",
    "output_tokens", "trace_id", "span_id", "outcome", "reason", "prompt_label", "response_label", "refusal",
    "unsafe", "prompt_unscored", "policy_version", "guard_model", "sampling_probability", "flags",
    "unscanned_parts", "attrs",
)  # fmt: skip

TEXT_COLUMNS = ("day", "event_id", "messages", "response", "response_extra", "client_verdicts")

VERDICT_COLUMNS = (
    "day", "event_id", "role", "attempt", "guard_id", "score_run", "label", "categories", "refusal", "score", "raw",
    "guard_model", "template", "policy_version", "windows",
)  # fmt: skip

INSERT_VERDICT = f"""
INSERT INTO verdicts ({", ".join(VERDICT_COLUMNS)})
VALUES ({", ".join(f"${n + 1}" for n in range(len(VERDICT_COLUMNS)))}) ON CONFLICT DO NOTHING
"""  # noqa: S608  # our own names
"""One verdict on a further answer, whose key another claim may have written."""

INSERT_SCREENINGS = """
INSERT INTO screenings (day, event_id, screener_id, label, score, created_at)
SELECT $1, u.* FROM unnest($2::uuid[], $3::text[], $4::text[], $5::float4[], $6::timestamptz[]) AS u
ON CONFLICT DO NOTHING
"""

INSERT_FINDINGS = """
INSERT INTO findings (day, finding_id, event_id, created_at, policy_version, label, categories, score, guard_id,
    source, tenant, model, served_model, served_by, response_id, trace_id, span_id, reprompt_state)
SELECT $1, u.finding_id, u.event_id, u.created_at, u.policy_version, u.label,
    CASE WHEN u.categories = '' THEN '{}'::text[] ELSE string_to_array(u.categories, chr(31)) END,
    u.score, u.guard_id, u.source, u.tenant, u.model, u.served_model, u.served_by, u.response_id, u.trace_id,
    u.span_id, u.reprompt_state
FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::float4[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
    $17::text[], $18::text[])
    AS u(finding_id, event_id, created_at, policy_version, label, categories, score, guard_id, source, tenant,
        model, served_model, served_by, response_id, trace_id, span_id, reprompt_state)
ON CONFLICT DO NOTHING
"""

_NUL_REPLACED = Flag.NUL_REPLACED.value
_WINDOWED = Flag.WINDOWED.value
_COLLIDED = Flag.ID_COLLISION.value
_UNIDENTIFIED = Flag.UNIDENTIFIED.value
"""As plain numbers: arithmetic of flags makes an object each time."""

_SEPARATOR = "\x1f"
"""Categories travel as one text each row: asyncpg has no ragged arrays of arrays."""


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows turned into ``width`` columns; empty columns for no rows."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    return turned or [[] for _ in range(width)]


async def copy(
    conn: asyncpg.Connection[Any], table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Write rows that cannot be there yet. Raises what asyncpg raises; `asyncpg.DataError` for a bad value."""
    try:
        await conn.copy_records_to_table(table, records=rows, columns=columns)
    except (ValueError, TypeError, OverflowError) as error:
        # As for the arguments of a statement, which asyncpg wraps itself: one bad value must not look like a
        # mistake of the program, which stops the service.
        raise asyncpg.DataError(f"a value of {table} cannot be encoded: {type(error).__name__}") from error


def messages_json(messages: Sequence[Message]) -> str:
    """The conversation as the JSON text that ``interaction_texts.messages`` holds: a list of {role, text}."""
    try:
        return _encode_messages(messages).decode()
    except UnicodeEncodeError as error:
        raise asyncpg.DataError("a message holds text that is no Unicode") from error


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        # orjson's only error: a lone surrogate, an integer of more than 64 bits. It is this row's fault.
        raise asyncpg.DataError("a value cannot be written as JSON") from error


def _received_at(milliseconds: int, now: dt.datetime) -> dt.datetime:
    """The record's log timestamp; ``now`` where it has none, or one that is no date: producers may write any."""
    if 0 <= milliseconds < _YEAR_10000_MS:
        return _EPOCH + dt.timedelta(milliseconds=milliseconds)
    return now


def _flags(event: PromptEvent, prompt: Verdict | None, response: Verdict | None, collided: bool) -> int:
    flags = _COLLIDED if collided else 0
    if event.nul_replaced:
        flags |= _NUL_REPLACED
    if not event.identified:
        flags |= _UNIDENTIFIED
    if (prompt is not None and prompt.assessment.windows > 1) or (
        response is not None and response.assessment.windows > 1
    ):
        flags |= _WINDOWED
    return flags


def interaction_row(
    day: dt.date, event_id: UUID, row: Interaction, collided: bool, now: dt.datetime
) -> tuple[Any, ...]:
    """Values of one interaction in the order of `INTERACTION_COLUMNS`."""
    event = row.event
    prompt, response = row.prompt_verdict, row.response_verdict
    return (
        day,
        event_id,
        _received_at(event.received_ms, now),
        event.event_time,
        event.format,
        event.source,
        event.tenant,
        event.model,
        event.provider,
        event.user_ref,
        event.conversation_id,
        event.response_id,
        event.choice,
        row.served_model,
        event.served_by,
        event.finish_reason,
        event.input_tokens,
        event.output_tokens,
        event.trace_id,
        event.span_id,
        row.outcome,
        row.reason,
        None if prompt is None else prompt.assessment.label,
        None if response is None else response.assessment.label,
        None if response is None else response.assessment.refusal,
        row.unsafe if row.outcome is Outcome.STORED else None,
        row.prompt_unscored,
        row.policy_version,
        None if response is None else response.guard_model,
        row.sampling_probability,
        _flags(event, prompt, response, collided),
        event.unscanned_parts,
        _json(event.attrs) if event.attrs else None,
    )


def text_row(day: dt.date, event_id: UUID, row: Interaction) -> tuple[Any, ...]:
    """Values of one row of texts in the order of `TEXT_COLUMNS`."""
    event = row.event
    client = _json(event.client_verdicts) if event.client_verdicts else None
    return (day, event_id, messages_json(event.messages), event.response, event.response_extra, client)


def verdict_row(day: dt.date, event_id: UUID, verdict: Verdict) -> tuple[Any, ...]:
    """Values of one verdict in the order of `VERDICT_COLUMNS`."""
    a = verdict.assessment
    return (
        day,
        event_id,
        verdict.role,
        verdict.attempt,
        verdict.guard_id,
        verdict.score_run,
        a.label,
        a.categories,
        a.refusal,
        a.score,
        a.raw,
        verdict.guard_model,
        verdict.template,
        verdict.policy_version,
        a.windows,
    )


def finding_row(finding_id: UUID, event_id: UUID, row: Interaction, now: dt.datetime) -> tuple[Any, ...]:
    """Values of one finding in the order of `INSERT_FINDINGS`, the day left out."""
    event, verdict = row.event, row.response_verdict
    if verdict is None or verdict.role is not Role.RESPONSE or verdict.assessment.label is Label.UNPARSEABLE:
        raise FatalError("a finding needs a readable verdict on its response")
    return (
        finding_id,
        event_id,
        now,
        row.policy_version,
        verdict.assessment.label.value,
        _SEPARATOR.join(verdict.assessment.categories),
        verdict.assessment.score,
        verdict.guard_id,
        event.source,
        event.tenant,
        event.model,
        row.served_model,
        event.served_by,
        event.response_id,
        event.trace_id,
        event.span_id,
        "pending" if row.served_model else "skipped",
    )
