"""OTLP export requests written by hand, in the JSON mapping, for what no library at hand does today."""

from __future__ import annotations

import json
from typing import Any

from consumers.formats import decode
from sentinel.events import Headers, Item, PromptEvent
from tests.unit.consumers.formats.examples import record

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def any_value(value: Any) -> dict[str, Any]:
    """An AnyValue as Python exporters write it: integers as strings, null empty."""
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [any_value(item) for item in value]}}
        case dict():
            return {"kvlistValue": {"values": attributes(value)}}
        case _:
            return {"stringValue": str(value)}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def span(values: dict[str, Any], name: str = "chat m", **more: Any) -> dict[str, Any]:
    return {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": name,
        "endTimeUnixNano": "1770000000000000000",
        "attributes": attributes(values),
        **more,
    }


def log(event: str, values: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    held = {
        "traceId": TRACE,
        "spanId": SPAN,
        "observedTimeUnixNano": "1770000000000000000",
        "eventName": event,
    }
    return {**held, "attributes": attributes(values or {}), **more}


def spans(*held: dict[str, Any], **resource: Any) -> bytes:
    scope = [{"scope": {"name": "by hand"}, "spans": list(held)}]
    return json.dumps(
        {"resourceSpans": [{"resource": {"attributes": attributes(resource)}, "scopeSpans": scope}]}
    ).encode()


def logs(*held: dict[str, Any], **resource: Any) -> bytes:
    scope = [{"scope": {"name": "by hand"}, "logRecords": list(held)}]
    return json.dumps(
        {"resourceLogs": [{"resource": {"attributes": attributes(resource)}, "scopeLogs": scope}]}
    ).encode()


def decoded(value: Any, headers: Headers = (), topic_format: str | None = None) -> list[Item]:
    """Items of a value: bytes, or anything that JSON can write."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode(record(raw, headers), topic_format)


def only(value: Any, headers: Headers = (), topic_format: str | None = None) -> PromptEvent:
    """The one event that a value must hold."""
    (item,) = decoded(value, headers, topic_format)
    assert isinstance(item, PromptEvent), item
    return item


def reasons(value: Any, headers: Headers = ()) -> list[str]:
    """Reasons of a value that holds no event; ``event`` for one that it holds all the same."""
    return ["event" if isinstance(item, PromptEvent) else item.reason for item in decoded(value, headers)]
