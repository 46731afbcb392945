"""OTLP export requests with GenAI content (semantic conventions 1.37): spans, and operation-details log events.

One builder writes the JSON mapping of the OTLP specification; protobuf is made from it. Spans carry the messages
as JSON text, log events as structured values.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from producers.traffic.events import JSON, SOURCE, Exchange, Record

PROTOBUF: Final = b"application/x-protobuf"
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.37.0"
_EVENT: Final = "gen_ai.client.inference.operation.details"
_CLIENT: Final = 3
"""SPAN_KIND_CLIENT."""

_WriteId = Callable[[bytes], str]


def span_protobuf(exchanges: Sequence[Exchange]) -> Record:
    """Binary trace export request."""
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ParseDict(_spans(exchanges, _base64), ExportTraceServiceRequest())
    return request.SerializeToString(), [("content-type", PROTOBUF)]


def span_json(exchanges: Sequence[Exchange]) -> Record:
    """JSON trace export request."""
    return orjson.dumps(_spans(exchanges, bytes.hex)), [("content-type", JSON)]


def log_protobuf(exchanges: Sequence[Exchange]) -> Record:
    """Binary log export request."""
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ParseDict(_logs(exchanges, _base64), ExportLogsServiceRequest())
    return request.SerializeToString(), [("content-type", PROTOBUF)]


def log_json(exchanges: Sequence[Exchange]) -> Record:
    """JSON log export request."""
    return orjson.dumps(_logs(exchanges, bytes.hex)), [("content-type", JSON)]


def _spans(exchanges: Sequence[Exchange], write_id: _WriteId) -> dict[str, Any]:
    spans = [
        {
            **_ids(exchange, write_id),
            "name": f"chat {exchange.model}",
            "kind": _CLIENT,
            "startTimeUnixNano": _nanoseconds(exchange.sent_at),
            "endTimeUnixNano": _nanoseconds(exchange.answered_at),
            "attributes": _pairs(
                _facts(exchange) | {key: _text(messages) for key, messages in _contents(exchange).items()}
            ),
            "status": {},
        }
        for exchange in exchanges
    ]
    return {"resourceSpans": [{"resource": _resource(), "scopeSpans": [_scope() | {"spans": spans}]}]}


def _logs(exchanges: Sequence[Exchange], write_id: _WriteId) -> dict[str, Any]:
    logs = [
        {
            **_ids(exchange, write_id),
            "eventName": _EVENT,
            "timeUnixNano": _nanoseconds(exchange.answered_at),
            "observedTimeUnixNano": _nanoseconds(exchange.answered_at),
            "attributes": _pairs(_facts(exchange) | _contents(exchange)),
        }
        for exchange in exchanges
    ]
    return {"resourceLogs": [{"resource": _resource(), "scopeLogs": [_scope() | {"logRecords": logs}]}]}


def _facts(exchange: Exchange) -> dict[str, Any]:
    asked, written = exchange.tokens
    facts = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": exchange.model,
        "gen_ai.response.model": exchange.answered_by,
        "gen_ai.response.id": exchange.body.get("id"),
        "gen_ai.response.finish_reasons": [exchange.finish_reason],
        "gen_ai.usage.input_tokens": asked,
        "gen_ai.usage.output_tokens": written,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _contents(exchange: Exchange) -> dict[str, Any]:
    return {
        "gen_ai.input.messages": [{"role": "user", "parts": [_part(exchange.prompt)]}],
        "gen_ai.output.messages": [
            {
                "role": "assistant",
                "parts": [_part(exchange.answer)],
                "finish_reason": exchange.finish_reason,
            }
        ],
    }


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}


def _ids(exchange: Exchange, write_id: _WriteId) -> dict[str, str]:
    # The id is random, so its halves are as good as ids drawn for the purpose.
    number = exchange.event_id.bytes
    return {"traceId": write_id(number), "spanId": write_id(number[8:])}


def _resource() -> dict[str, Any]:
    return {"attributes": _pairs({"service.name": SOURCE})}


def _scope() -> dict[str, Any]:
    return {"scope": {"name": SOURCE}, "schemaUrl": _SCHEMA}


def _pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


def _any_value(value: Any) -> dict[str, Any]:
    match value:
        case str():
            return {"stringValue": value}
        case int():
            return {"intValue": str(value)}
        case list():
            return {"arrayValue": {"values": [_any_value(item) for item in value]}}
        case dict():
            return {"kvlistValue": {"values": _pairs(value)}}
        case _:
            raise TypeError(f"no attribute value: {type(value).__name__}")


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _nanoseconds(moment: dt.datetime) -> str:
    # As integers: a float holds no nanoseconds of this century.
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return str(since // dt.timedelta(microseconds=1) * 1000)


def _base64(number: bytes) -> str:
    # protobuf's own JSON mapping, which is no OTLP, writes bytes so.
    return base64.b64encode(number).decode()
