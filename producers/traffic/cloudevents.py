"""The product's own event in CloudEvents 1.0 envelopes: the three content modes of the Kafka binding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from producers.traffic.events import JSON, SOURCE, Exchange, Record, event_of

TYPE: Final = "io.sentinel.prompt"


def structured(exchanges: Sequence[Exchange]) -> Record:
    """Envelope and data in one JSON object."""
    (exchange,) = exchanges
    return orjson.dumps(_envelope(exchange)), [("content-type", b"application/cloudevents+json")]


def batch(exchanges: Sequence[Exchange]) -> Record:
    """A list of structured events."""
    envelopes = [_envelope(exchange) for exchange in exchanges]
    return orjson.dumps(envelopes), [("content-type", b"application/cloudevents-batch+json")]


def binary(exchanges: Sequence[Exchange]) -> Record:
    """The data as the value, the envelope in the headers."""
    (exchange,) = exchanges
    headers = [(f"ce_{name}", str(value).encode()) for name, value in _attributes(exchange).items()]
    return orjson.dumps(event_of(exchange)), [("content-type", JSON), *headers]


def _attributes(exchange: Exchange) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": str(exchange.event_id),
        "source": SOURCE,
        "type": TYPE,
        "time": exchange.sent_at.isoformat(),
    }


def _envelope(exchange: Exchange) -> dict[str, Any]:
    return {
        **_attributes(exchange),
        "datacontenttype": "application/json",
        "data": event_of(exchange),
    }
