"""OTLP as protobuf and as JSON, traces and logs, made one kind of entry.

Sources: opentelemetry-proto 1.x (trace/v1, logs/v1, common/v1) and the JSON mapping of the OTLP specification:
lowerCamelCase keys, hex ids, 64-bit integers as strings (Node writes numbers), null as an empty AnyValue.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from consumers.formats.fields import MAX_DEPTH, mapping
from sentinel.errors import PoisonError

_STATUS_ERROR: Final = 2
_ERROR_NAMES: Final = (_STATUS_ERROR, "STATUS_CODE_ERROR")
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(slots=True)
class Entry:
    """One span or one log record."""

    is_log: bool
    trace_id: str = ""
    span_id: str = ""
    name: str = ""
    """Name of the span, or of the log event."""
    time_ns: int = 0
    failed: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Span events: name and attributes."""

    @property
    def call(self) -> str | None:
        """``trace:span``, which names the call, or None."""
        return f"{self.trace_id}:{self.span_id}" if self.trace_id and self.span_id else None


def looks_otlp(obj: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an export request of any signal."""
    return any(
        key in obj
        for key in ("resourceSpans", "resourceLogs", "resourceMetrics", "resource_spans", "resource_logs")
    )


def from_protobuf(raw: bytes) -> list[Entry]:
    """Entries of a trace or log export request; nothing in the bytes says which of the two it is.

    Raises:
        PoisonError: ``invalid_protobuf`` where it is neither.
    """
    spans = ExportTraceServiceRequest()
    logs = ExportLogsServiceRequest()
    try:
        spans.ParseFromString(raw)
        # Every span has a 16-byte trace id; a log record read as a span has its time in that field's place.
        entries = list(_spans_of(spans))
        if entries and any(len(entry.trace_id) == 32 and len(entry.span_id) == 16 for entry in entries):
            return entries
    except (DecodeError, UnicodeDecodeError):
        entries = []
    try:
        logs.ParseFromString(raw)
        entries = list(_logs_of(logs))
    except (DecodeError, UnicodeDecodeError):
        raise PoisonError("invalid_protobuf", "neither an OTLP trace nor an OTLP log request") from None
    if not any(entry.attributes or entry.body is not None or entry.time_ns for entry in entries):
        raise PoisonError("invalid_protobuf", "no span and no log record")
    return entries


def from_json(obj: Mapping[str, Any]) -> list[Entry]:
    """Entries of an export request in JSON. Raises PoisonError ``too_deep``; metrics give no entries."""
    entries = []
    for resource, scope in _scopes(obj, "Spans"):
        for span in _objects(_key(scope, "spans")):
            entries.append(_json_span(span, resource))
    for resource, scope in _scopes(obj, "Logs"):
        for log in _objects(_key(scope, "logRecords")):
            entries.append(_json_log(log, resource))
    return entries


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Entry]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Entry(
                    is_log=False,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    name=span.name,
                    time_ns=span.end_time_unix_nano or span.start_time_unix_nano,
                    failed=span.status.code == _STATUS_ERROR,
                    attributes=_attributes(span.attributes),
                    resource=resource,
                    events=[(event.name, _attributes(event.attributes)) for event in span.events],
                )


def _logs_of(request: ExportLogsServiceRequest) -> Iterator[Entry]:
    for group in request.resource_logs:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_logs:
            for log in scope.log_records:
                attributes = _attributes(log.attributes)
                yield Entry(
                    is_log=True,
                    trace_id=log.trace_id.hex(),
                    span_id=log.span_id.hex(),
                    name=log.event_name or _text(attributes.get("event.name")),
                    # SDKs leave the time of an event 0 and set only when it was observed.
                    time_ns=log.time_unix_nano or log.observed_time_unix_nano,
                    attributes=attributes,
                    resource=resource,
                    body=_value(log.body) if log.HasField("body") else None,
                )


def _attributes(pairs: Iterable[KeyValue], depth: int = 0) -> dict[str, Any]:
    return {pair.key: _value(pair.value, depth) for pair in pairs}


def _value(value: AnyValue, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise PoisonError("too_deep", "attribute value")
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values, depth + 1)
    if kind == "bytes_value":
        return value.bytes_value
    return getattr(value, kind)


def _json_span(span: Mapping[str, Any], resource: dict[str, Any]) -> Entry:
    return Entry(
        is_log=False,
        trace_id=_hex_id(_key(span, "traceId"), 32),
        span_id=_hex_id(_key(span, "spanId"), 16),
        name=_text(span.get("name")),
        time_ns=_int(_key(span, "endTimeUnixNano")) or _int(_key(span, "startTimeUnixNano")),
        failed=mapping(span.get("status")).get("code") in _ERROR_NAMES,
        attributes=_json_attributes(span.get("attributes")),
        resource=resource,
        events=[
            (_text(event.get("name")), _json_attributes(event.get("attributes")))
            for event in _objects(span.get("events"))
        ],
    )


def _json_log(log: Mapping[str, Any], resource: dict[str, Any]) -> Entry:
    attributes = _json_attributes(log.get("attributes"))
    return Entry(
        is_log=True,
        trace_id=_hex_id(_key(log, "traceId"), 32),
        span_id=_hex_id(_key(log, "spanId"), 16),
        name=_text(_key(log, "eventName")) or _text(attributes.get("event.name")),
        time_ns=_int(_key(log, "timeUnixNano")) or _int(_key(log, "observedTimeUnixNano")),
        attributes=attributes,
        resource=resource,
        body=_json_value(log.get("body")),
    )


def _scopes(obj: Mapping[str, Any], signal: str) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    for group in _objects(_key(obj, f"resource{signal}")):
        resource = _json_attributes(mapping(group.get("resource")).get("attributes"))
        for scope in _objects(_key(group, f"scope{signal}")):
            yield resource, scope


def _json_attributes(pairs: Any, depth: int = 0) -> dict[str, Any]:
    return {
        pair["key"]: _json_value(pair.get("value"), depth)
        for pair in _objects(pairs)
        if isinstance(pair.get("key"), str)
    }


def _json_value(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise PoisonError("too_deep", "attribute value")
    if not isinstance(value, dict):
        return None
    for kind, inner in value.items():
        match kind:
            case "stringValue" | "string_value" | "boolValue" | "bool_value" | "doubleValue" | "double_value":
                return inner if isinstance(inner, str | bool | int | float) else None
            case "intValue" | "int_value":
                return _int(inner)
            case "arrayValue" | "array_value":
                return [_json_value(item, depth + 1) for item in _objects(mapping(inner).get("values"))]
            case "kvlistValue" | "kvlist_value":
                return _json_attributes(mapping(inner).get("values"), depth + 1)
            case "bytesValue" | "bytes_value":
                return _base64(inner)
    return None  # an empty AnyValue is null


def _key(obj: Mapping[str, Any], camel: str) -> Any:
    # Some exporters keep the names of the .proto files.
    if camel in obj:
        return obj[camel]
    return obj.get("".join(f"_{c.lower()}" if c.isupper() else c for c in camel))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _int(value: Any) -> int:
    if isinstance(value, str):
        sign, digits = (-1, value[1:]) if value.startswith("-") else (1, value)
        return sign * int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else 0
    return int(value) if isinstance(value, int | float) else 0


def _hex_id(value: Any, digits: int) -> str:
    text = _text(value)
    lowered = text.lower()
    if len(text) == digits and _HEX.issuperset(lowered):
        return lowered
    # The generic JSON writer of protobuf libraries writes bytes as base64.
    decoded = _base64(text)
    return decoded.hex() if len(decoded) * 2 == digits else ""


def _base64(value: Any) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except (binascii.Error, ValueError):
        return b""
