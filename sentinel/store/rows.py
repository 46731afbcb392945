"""Interactions as column arrays for ``INSERT … SELECT FROM unnest(…)``: one plan and one execution a flush."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import orjson

from sentinel.errors import FatalError
from sentinel.events import Message
from sentinel.interactions import Flag, Interaction
from sentinel.verdicts import Label, Role, Verdict

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

INSERT_INTERACTIONS = """
INSERT INTO interactions (day, event_id, received_at, event_time, format, source, tenant, model, provider,
    user_ref, conversation_id, response_id, choice, served_model, served_by, finish_reason, input_tokens,
    output_tokens, trace_id, span_id, outcome, reason, prompt_label, response_label, refusal, unsafe,
    prompt_unscored, policy_version, guard_model, sampling_probability, flags, unscanned_parts, attrs)
SELECT $1, u.* FROM unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::int2[], $14::text[], $15::text[],
    $16::text[], $17::int4[], $18::int4[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[],
    $24::text[], $25::bool[], $26::bool[], $27::text[], $28::text[], $29::text[], $30::float4[], $31::int4[],
    $32::int4[], $33::jsonb[]) AS u
"""

INSERT_TEXTS = """
INSERT INTO interaction_texts (day, event_id, messages, response, response_extra, client_verdicts)
SELECT $1, u.* FROM unnest($2::uuid[], $3::jsonb[], $4::text[], $5::text[], $6::jsonb[]) AS u
"""

INSERT_VERDICTS = """
INSERT INTO verdicts (day, event_id, role, attempt, guard_id, score_run, label, categories, refusal, score, raw,
    guard_model, template, policy_version, windows)
SELECT $1, u.event_id, u.role, u.attempt, u.guard_id, u.score_run, u.label,
    CASE WHEN u.categories = '' THEN '{}'::text[] ELSE string_to_array(u.categories, chr(31)) END,
    u.refusal, u.score, u.raw, u.guard_model, u.template, u.policy_version, u.windows
FROM unnest($2::uuid[], $3::text[], $4::int2[], $5::text[], $6::int4[], $7::text[], $8::text[], $9::bool[],
    $10::float4[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int2[])
    AS u(event_id, role, attempt, guard_id, score_run, label, categories, refusal, score, raw, guard_model,
        template, policy_version, windows)
ON CONFLICT DO NOTHING
"""

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


def messages_json(messages: Sequence[Message]) -> str:
    """The conversation as the JSON text that ``interaction_texts.messages`` holds."""
    return orjson.dumps([{"role": m.role, "text": m.text} for m in messages]).decode()


def _flags(row: Interaction, collided: bool) -> int:
    event = row.event
    flags = 0
    if event.nul_replaced:
        flags |= Flag.NUL_REPLACED.value
    if collided:
        flags |= Flag.ID_COLLISION.value
    if not event.identified:
        flags |= Flag.UNIDENTIFIED.value
    for verdict in (row.prompt_verdict, row.response_verdict):
        if verdict is not None and verdict.assessment.windows > 1:
            flags |= Flag.WINDOWED.value
    return flags


def _scored(row: Interaction) -> bool | None:
    return row.unsafe if row.outcome.value == "stored" else None


def interaction_row(event_id: UUID, row: Interaction, collided: bool, now: dt.datetime) -> tuple[Any, ...]:
    """Values of one interaction in the order of `INSERT_INTERACTIONS`, the day left out."""
    event = row.event
    prompt, response = row.prompt_verdict, row.response_verdict
    return (
        event_id,
        _EPOCH + dt.timedelta(milliseconds=event.received_ms) if event.received_ms >= 0 else now,
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
        row.outcome.value,
        row.reason,
        None if prompt is None else prompt.assessment.label.value,
        None if response is None else response.assessment.label.value,
        None if response is None else response.assessment.refusal,
        _scored(row),
        row.prompt_unscored,
        row.policy_version,
        None if response is None else response.guard_model,
        row.sampling_probability,
        _flags(row, collided),
        event.unscanned_parts,
        orjson.dumps(event.attrs).decode() if event.attrs else None,
    )


def text_row(event_id: UUID, row: Interaction) -> tuple[Any, ...]:
    """Values of one row of texts in the order of `INSERT_TEXTS`, the day left out."""
    event = row.event
    client = orjson.dumps(event.client_verdicts).decode() if event.client_verdicts else None
    return (event_id, messages_json(event.messages), event.response, event.response_extra, client)


def verdict_row(event_id: UUID, verdict: Verdict) -> tuple[Any, ...]:
    """Values of one verdict in the order of `INSERT_VERDICTS`, the day left out."""
    a = verdict.assessment
    return (
        event_id,
        verdict.role.value,
        verdict.attempt,
        verdict.guard_id,
        verdict.score_run,
        a.label.value,
        _SEPARATOR.join(a.categories),
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
