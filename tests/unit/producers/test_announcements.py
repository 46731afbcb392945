"""What stands in the outbox, against the published schemas and against OTLP itself."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import orjson
import pytest
from google.protobuf import json_format
from jsonschema import Draft202012Validator, ValidationError
from msgspec.structs import replace
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from sentinel.announcements import (
    TEXT_LIMIT,
    FindingOutput,
    announce_dead_letter,
    announce_finding,
    announce_interaction,
    announce_promotion,
    finding_of,
)
from sentinel.events import EVENT_ID_HEADER, REPLAY_ITEM_HEADER, REPLAY_TOKEN_HEADER, Message
from sentinel.promotions import Promotion
from sentinel.resources import data_path
from tests.unit.producers import examples

NOTHING = {"score": None, "source": None, "tenant": None, "model": None, "served_model": None}
NOBODY = {"served_by": None, "response_id": None, "trace_id": None, "span_id": None, "categories": ()}


def validator(name: str) -> Draft202012Validator:
    schema = orjson.loads(data_path("configs", "schemas", f"{name}.schema.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def document(row: Any) -> Any:
    assert row.payload is not None
    return orjson.loads(row.payload)


@pytest.mark.parametrize("changes", [{}, NOTHING | NOBODY], ids=["full", "bare"])
def test_a_finding_fits_its_schemas(changes: dict[str, Any]) -> None:
    plain, evaluation = announce_finding(examples.finding(**changes), FindingOutput())
    validator("finding").validate(document(plain))
    validator("evaluation").validate(document(evaluation))
    assert plain.topic == evaluation.topic == "sentinel.findings"
    assert plain.key != evaluation.key
    assert (dict(plain.headers)["sentinel-kind"], dict(evaluation.headers)["sentinel-kind"]) == (
        b"finding",
        b"evaluation",
    )


def test_the_schema_refuses_what_is_not_a_finding() -> None:
    plain, evaluation = announce_finding(examples.finding(), FindingOutput())
    broken = document(plain) | {"prompt": "text that must not be here"}
    with pytest.raises(ValidationError):
        validator("finding").validate(broken)
    other = document(evaluation)
    record = other["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    record["attributes"] = [a for a in record["attributes"] if a["key"] != "gen_ai.evaluation.name"]
    with pytest.raises(ValidationError):
        validator("evaluation").validate(other)


def test_the_evaluation_is_otlp() -> None:
    row = announce_finding(examples.finding(), FindingOutput(document=False))[0]
    # OTLP/JSON writes the two ids in hexadecimal, protobuf's own JSON mapping in base64.
    value = document(row)
    record = value["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    for name in ("traceId", "spanId"):
        record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
    request = json_format.ParseDict(value, ExportLogsServiceRequest())
    log = request.resource_logs[0].scope_logs[0].log_records[0]
    attributes = {a.key: a.value for a in log.attributes}
    assert log.event_name == "gen_ai.evaluation.result"
    assert log.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert log.time_unix_nano == 1_795_257_000_123_456_000
    assert attributes["gen_ai.evaluation.score.label"].string_value == "unsafe"
    assert attributes["gen_ai.evaluation.score.value"].double_value == 0.93
    assert attributes["gen_ai.response.id"].string_value == "chatcmpl-1"
    assert "gen_ai.evaluation.explanation" not in attributes


def test_forms_and_topics_are_chosen() -> None:
    output = FindingOutput(topic="a", evaluation_topic="b")
    assert [row.topic for row in announce_finding(examples.finding(), output)] == ["a", "b"]
    only = FindingOutput(evaluation=False)
    assert [dict(r.headers)["sentinel-kind"] for r in announce_finding(examples.finding(), only)] == [
        b"finding"
    ]
    assert announce_finding(examples.finding(), FindingOutput(document=False, evaluation=False)) == []


def test_text_leaves_only_on_request() -> None:
    new = (examples.FINDING, examples.EVENT, examples.interaction())
    silent = b"".join(row.payload or b"" for row in announce_interaction(new, examples.NOW, FindingOutput()))
    assert b"like this" not in silent
    assert b"how?" not in silent
    spoken = document(announce_interaction(new, examples.NOW, FindingOutput(include_text=True))[0])
    validator("finding").validate(spoken)
    assert spoken["text"] == {
        "messages": [{"role": "system", "text": "be nice"}, {"role": "user", "text": "how?"}],
        "response": "like this",
        "truncated": False,
    }


def test_long_texts_are_cut_from_the_oldest_turn() -> None:
    messages = [Message("user", "old"), Message("user", "x" * TEXT_LIMIT + "end")]
    output = FindingOutput(include_text=True, evaluation=False)
    text = document(announce_finding(examples.finding(), output, messages, "y" * (TEXT_LIMIT + 1))[0])["text"]
    assert [len(m["text"]) for m in text["messages"]] == [TEXT_LIMIT]
    assert text["messages"][0]["text"].endswith("end")
    assert (len(text["response"]), text["truncated"]) == (TEXT_LIMIT, True)


def test_a_finding_needs_a_verdict() -> None:
    found = finding_of(examples.FINDING, examples.EVENT, examples.interaction(), examples.NOW)
    assert (found.label, found.categories, found.served_model) == ("unsafe", ("Violent",), "olmo")
    with pytest.raises(ValueError, match="no finding"):
        finding_of(
            examples.FINDING,
            examples.EVENT,
            replace(examples.interaction(), response_verdict=None),
            examples.NOW,
        )


def test_a_dead_letter_keeps_its_record_and_says_why() -> None:
    replayed = ((EVENT_ID_HEADER, b"x"), (REPLAY_TOKEN_HEADER, b"y"), (REPLAY_ITEM_HEADER, b"0"))
    letter = examples.letter(
        headers=(*examples.letter().headers, *replayed, ("__connect.errors.topic", b"elsewhere")),
        detail="bad \udc80 surrogate",
    )
    row = announce_dead_letter(letter, examples.NOW, code_version="0.1.0")
    assert (row.topic, row.key, row.payload) == (
        "sentinel.dead-letters",
        b"k",
        b"{not json",
    )
    assert row.headers[:2] == (("traceparent", b"00-aa"), ("empty", None))
    ours = {name: value.decode() for name, value in row.headers[2:] if value is not None}
    validator("dead-letter-headers").validate(ours)
    assert ours["__connect.errors.topic"] == "llm.events"
    assert ours["__connect.errors.exception.message"] == "bad ? surrogate"
    assert ours["sentinel-first-seen"] == "2026-11-21T10:30:00.123456+00:00"
    assert not {EVENT_ID_HEADER, REPLAY_TOKEN_HEADER, REPLAY_ITEM_HEADER} & ours.keys()


def test_a_promotion_fits_its_schema() -> None:
    promotion = Promotion(
        promotion_id=uuid4(),
        served_model="olmo",
        generation=3,
        adapter="olmo-a1",
        previous_adapter=None,
        action="promote",
        gate_report_id=uuid4(),
        created_at=examples.NOW,
    )
    row = announce_promotion(promotion)
    validator("promotion").validate(document(row))
    assert row.key == b"olmo"
