"""What leaves for Kafka, as it stands in the outbox: findings, dead letters, promotions.

Pure functions, called inside the transaction that stores what they announce. The JSON Schemas of the
documents are in ``configs/schemas``. Topics are at least once: every document carries an id of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from msgspec import Struct

from sentinel import ids
from sentinel.events import EVENT_ID_HEADER, REPLAY_ITEM_HEADER, REPLAY_TOKEN_HEADER, Headers, Message
from sentinel.findings import Finding
from sentinel.interactions import DeadLetter, Interaction
from sentinel.promotions import Promotion

SCHEMA_VERSION = 1
"""Version of every document and header set made here; rises with an incompatible change."""

KIND_HEADER = "sentinel-kind"
"""Tells the records of one topic apart: ``finding``, ``evaluation``, ``dead-letter``, ``promotion``."""

EVALUATION_NAME = "sentinel.safety"
"""``gen_ai.evaluation.name`` of a finding."""

TEXT_LIMIT = 200_000
"""Characters of prompt and of response in a finding at most: a broker refuses records above 1 MB."""

CONNECT_PREFIX = "__connect.errors."
"""Prefix of the headers that Kafka Connect's dead-letter queues carry."""

CONNECTOR_NAME = "sentinel"

_JSON = (("content-type", b"application/json"),)
_OWN_HEADERS = frozenset({EVENT_ID_HEADER, REPLAY_TOKEN_HEADER, REPLAY_ITEM_HEADER})


class OutboxRow(Struct, frozen=True, gc=False):
    """One record to be, in the transaction that makes it true."""

    topic: str
    key: bytes | None
    headers: Headers
    payload: bytes | None


class FindingOutput(Struct, frozen=True, kw_only=True):
    """How findings are announced (settings ``findings`` and ``topics``)."""

    topic: str = "sentinel.findings"
    document: bool = True
    """Announce the JSON document of the finding."""
    evaluation: bool = True
    """Announce the OpenTelemetry log event ``gen_ai.evaluation.result``, as one OTLP/JSON request."""
    evaluation_topic: str | None = None
    """Another topic for the log events: an OTLP receiver accepts nothing else on its topic."""
    include_text: bool = False


def announce_finding(
    finding: Finding, output: FindingOutput, messages: Sequence[Message] = (), response: str = ""
) -> list[OutboxRow]:
    """The records that announce a finding; the texts are used only with ``include_text``."""
    rows = []
    key = str(finding.finding_id).encode()
    if output.document:
        document = finding_document(finding)
        if output.include_text:
            document["text"] = _text(messages, response)
        rows.append(OutboxRow(output.topic, key, _headers("finding"), _encoded(document)))
    if output.evaluation:
        # A key of its own: on a compacted topic the same key would leave only one of the two.
        rows.append(
            OutboxRow(
                output.evaluation_topic or output.topic,
                key + b":evaluation",
                _headers("evaluation"),
                orjson.dumps(evaluation_request(finding)),
            )
        )
    return rows


def finding_of(finding_id: UUID, event_id: UUID, interaction: Interaction, now: dt.datetime) -> Finding:
    """The finding that an unsafe interaction makes; ids are given, since a reused response id gets another.

    Raises:
        ValueError: the interaction has no verdict on its response, so it cannot be a finding.
    """
    event, verdict = interaction.event, interaction.response_verdict
    if verdict is None:
        raise ValueError("an interaction without a verdict on its response is no finding")
    return Finding(
        finding_id=finding_id,
        event_id=event_id,
        created_at=now,
        policy_version=interaction.policy_version,
        label=verdict.assessment.label.value,
        categories=verdict.assessment.categories,
        score=verdict.assessment.score,
        guard_id=verdict.guard_id,
        source=event.source,
        tenant=event.tenant,
        model=event.model,
        served_model=interaction.served_model,
        served_by=event.served_by,
        response_id=event.response_id,
        trace_id=event.trace_id,
        span_id=event.span_id,
    )


def announce_interaction(
    new: tuple[UUID, UUID, Interaction], now: dt.datetime, output: FindingOutput
) -> list[OutboxRow]:
    """The records that announce the finding (finding id, event id, interaction) of a flush at ``now``."""
    finding_id, event_id, interaction = new
    event = interaction.event
    return announce_finding(
        finding_of(finding_id, event_id, interaction, now), output, event.messages, event.scanned_response
    )


def announce_promotion(promotion: Promotion, topic: str = "sentinel.promotions") -> OutboxRow:
    """The record of a change of service; the key is the served model, so that compaction keeps the last."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "promotion_id": promotion.promotion_id,
        "served_model": promotion.served_model,
        "generation": promotion.generation,
        "adapter": promotion.adapter,
        "previous_adapter": promotion.previous_adapter,
        "action": promotion.action,
        "gate_report_id": promotion.gate_report_id,
        "created_at": promotion.created_at,
    }
    return OutboxRow(topic, promotion.served_model.encode(), _headers("promotion"), _encoded(document))


def announce_dead_letter(
    letter: DeadLetter, now: dt.datetime, *, code_version: str, topic: str = "sentinel.dead-letters"
) -> OutboxRow:
    """The original key, value and headers, followed by Kafka Connect's error headers and ours.

    ``now`` is used where the letter does not say when it was first seen. Headers of an earlier replay are
    left out: their token is spent.
    """
    origin = letter.origin
    letter_id = ids.dead_letter_id(
        origin.topic, origin.incarnation, origin.partition, origin.offset, origin.item
    )
    ours: list[tuple[str, bytes | None]] = [
        (CONNECT_PREFIX + "topic", _bytes(origin.topic)),
        (CONNECT_PREFIX + "partition", _bytes(origin.partition)),
        (CONNECT_PREFIX + "offset", _bytes(origin.offset)),
        (CONNECT_PREFIX + "connector.name", _bytes(CONNECTOR_NAME)),
        (CONNECT_PREFIX + "exception.class.name", _bytes(letter.error_class)),
        (CONNECT_PREFIX + "exception.message", _bytes(letter.detail or letter.reason)),
        (KIND_HEADER, b"dead-letter"),
        ("sentinel-schema-version", _bytes(SCHEMA_VERSION)),
        ("sentinel-dead-letter-id", _bytes(letter_id)),
        ("sentinel-reason", _bytes(letter.reason)),
        ("sentinel-item", _bytes(origin.item)),
        ("sentinel-incarnation", _bytes(origin.incarnation)),
        ("sentinel-timestamp-ms", _bytes(letter.timestamp_ms)),
        ("sentinel-attempts", _bytes(letter.attempts)),
        ("sentinel-code-version", _bytes(code_version)),
        ("sentinel-first-seen", _bytes((letter.first_seen or now).isoformat())),
    ]
    return OutboxRow(topic, letter.key, (*producer_headers(letter.headers), *ours), letter.value)


def producer_headers(headers: Headers) -> Headers:
    """The headers that the record's own producer set: no replay marks and no error headers."""
    return tuple(
        (name, value)
        for name, value in headers
        if name not in _OWN_HEADERS and not name.startswith(CONNECT_PREFIX)
    )


def finding_document(finding: Finding) -> dict[str, Any]:
    """The finding as ``configs/schemas/finding.schema.json`` describes it, without text."""
    return {
        "schema_version": SCHEMA_VERSION,
        "finding_id": finding.finding_id,
        "event_id": finding.event_id,
        "created_at": finding.created_at,
        "policy_version": finding.policy_version,
        "label": finding.label,
        "categories": list(finding.categories),
        "score": finding.score,
        "guard_id": finding.guard_id,
        "source": finding.source,
        "tenant": finding.tenant,
        "model": finding.model,
        "served_model": finding.served_model,
        "served_by": finding.served_by,
        "response_id": finding.response_id,
        "trace_id": finding.trace_id,
        "span_id": finding.span_id,
    }


def evaluation_request(finding: Finding) -> dict[str, Any]:
    """The finding as an OTLP/JSON ExportLogsServiceRequest with one ``gen_ai.evaluation.result`` event.

    Source: OpenTelemetry GenAI semantic conventions, events. No explanation is given: the guard's own
    words may quote the answer.
    """
    attributes: list[dict[str, Any]] = [
        _attribute("gen_ai.evaluation.name", EVALUATION_NAME),
        _attribute("gen_ai.evaluation.score.label", finding.label),
    ]
    if finding.score is not None:
        attributes.append({"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": finding.score}})
    optional = (
        ("gen_ai.response.id", finding.response_id),
        ("gen_ai.response.model", finding.model),
        ("sentinel.served_model", finding.served_model),
        ("sentinel.served_by", finding.served_by),
    )
    attributes.extend(_attribute(name, value) for name, value in optional if value)
    attributes += [
        _attribute("sentinel.finding_id", str(finding.finding_id)),
        _attribute("sentinel.event_id", str(finding.event_id)),
        _attribute("sentinel.policy_version", finding.policy_version),
        _attribute("sentinel.guard_id", finding.guard_id),
        {
            "key": "sentinel.categories",
            "value": {"arrayValue": {"values": [{"stringValue": name} for name in finding.categories]}},
        },
    ]
    nanoseconds = str(int(finding.created_at.timestamp() * 1_000_000) * 1000)
    record: dict[str, Any] = {
        "timeUnixNano": nanoseconds,
        "observedTimeUnixNano": nanoseconds,
        "severityNumber": 13,
        "severityText": "WARN",
        "eventName": "gen_ai.evaluation.result",
        "attributes": attributes,
    }
    if finding.trace_id and finding.span_id:
        record["traceId"] = finding.trace_id
        record["spanId"] = finding.span_id
    resource = [_attribute("service.name", "sentinel-loop")]
    if finding.source:
        resource.append(_attribute("sentinel.source", finding.source))
    if finding.tenant:
        resource.append(_attribute("sentinel.tenant", finding.tenant))
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": resource},
                "scopeLogs": [{"scope": {"name": "sentinel"}, "logRecords": [record]}],
            }
        ]
    }


def _encoded(document: dict[str, Any]) -> bytes:
    # Ids may be of the database driver's UUID class, which the library does not know.
    return orjson.dumps(document, default=str)


def _attribute(name: str, value: str) -> dict[str, Any]:
    return {"key": name, "value": {"stringValue": value}}


def _headers(kind: str) -> Headers:
    return (*_JSON, (KIND_HEADER, kind.encode()), ("sentinel-schema-version", str(SCHEMA_VERSION).encode()))


def _text(messages: Sequence[Message], response: str) -> dict[str, Any]:
    left = TEXT_LIMIT
    kept: list[dict[str, str]] = []
    for message in reversed(messages):  # the last turn caused the answer: what is cut is the oldest
        if left <= 0:
            break
        kept.append({"role": message.role, "text": message.text[-left:]})
        left -= len(message.text)
    return {
        "messages": kept[::-1],
        "response": response[:TEXT_LIMIT],
        "truncated": left < 0 or len(kept) < len(messages) or len(response) > TEXT_LIMIT,
    }


def _bytes(value: object) -> bytes:
    return str(value).encode("utf-8", "replace")
