"""Rows as values: the columns that are written, and column arrays for ``INSERT … SELECT FROM unnest(…)``.

What is certain to be new goes by COPY instead (binary_copy.py), which knows no ON CONFLICT. It costs the client less,
since asyncpg asks of every element of an array whether it is an array itself, and the server less, since it plans
nothing.
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
from sentinel.events import Message
from sentinel.interactions import Interaction
from sentinel.verdicts import Label, Role, Verdict

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

_SEPARATOR = "\x1f"
"""Categories travel as one text each row: asyncpg has no ragged arrays of arrays."""


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows turned into ``width`` columns; empty columns for no rows."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    return turned or [[] for _ in range(width)]


def messages_json(messages: Sequence[Message]) -> bytes:
    """The conversation as the JSON that ``interaction_texts.messages`` holds: a list of {role, text}.

    Raises `asyncpg.DataError` for what is no Unicode.
    """
    try:
        return _encode_messages(messages)
    except UnicodeEncodeError as error:
        raise asyncpg.DataError("a message holds text that is no Unicode") from error


def json_of(value: Any) -> bytes:
    """A producer's own values as JSON. Raises `asyncpg.DataError` for what has none."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        # orjson's only error: a lone surrogate, an integer of more than 64 bits. It is this row's fault.
        raise asyncpg.DataError("a value cannot be written as JSON") from error


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
