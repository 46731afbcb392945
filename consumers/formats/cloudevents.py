"""CloudEvents 1.0 envelopes: binary and structured mode of the Kafka and HTTP bindings, and JSON batches.

The envelope names the event; what it holds is read by the other formats. An envelope is recognised by its own
keys as well as by its headers, since some SDK releases label structured messages with the data's content type.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consumers.formats.drafts import Outcome, with_defaults
from consumers.formats.fields import json_in_text, moment, name, traceparent
from sentinel.errors import PoisonError
from sentinel.events import Headers

STRUCTURED: Final = "application/cloudevents"
_PREFIXES: Final = ("ce_", "ce-")
_REQUIRED: Final = ("id", "source", "type")


@dataclass(frozen=True, slots=True)
class Envelope:
    """Attributes of one event; extensions included."""

    attributes: Mapping[str, Any]

    def applied_to(self, outcome: Outcome, number: int = 0) -> Outcome:
        """The outcome with this envelope's identity and context where the data has none of its own.

        ``number`` counts the outcomes of one envelope from 0: several without an id of their own must not share
        the envelope's, or all but the first would pass for repetitions.
        """
        attributes = self.attributes
        own = name(attributes.get("id"))
        trace_id, span_id = traceparent(attributes.get("traceparent"))
        return with_defaults(
            outcome,
            producer_id=f"{own}#{number}" if own and number else own,
            source=name(attributes.get("source")),
            tenant=name(attributes.get("tenant")),
            conversation_id=name(attributes.get("subject")),
            event_time=moment(attributes.get("time")),
            trace_id=trace_id,
            span_id=span_id,
        )


def from_headers(headers: Headers) -> Envelope | None:
    """The envelope of a binary-mode record, or None. Null-valued headers are absent ones."""
    if not any([key[:3].lower() in _PREFIXES for key, _ in headers]):  # noqa: C419  # a list is quicker here
        return None
    attributes = {
        key[3:].lower(): value.decode("utf-8", "replace")
        for key, value in headers
        if value is not None and key[:3].lower() in _PREFIXES
    }
    return Envelope(attributes) if "specversion" in attributes or "type" in attributes else None


def looks_structured(obj: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an envelope, whatever its content type says."""
    return (
        "specversion" in obj and "type" in obj and ("data" in obj or "data_base64" in obj or "source" in obj)
    )


def open_structured(obj: Mapping[str, Any]) -> tuple[Envelope, Any]:
    """The envelope of a structured event and its data: a parsed value, or bytes still to be read.

    Raises:
        PoisonError: ``missing_field`` without id, source, type or data; ``invalid_encoding`` for bad base64.
    """
    for required in _REQUIRED:
        if name(obj.get(required)) is None:
            raise PoisonError("missing_field", required)
    envelope = Envelope({key: value for key, value in obj.items() if key not in ("data", "data_base64")})
    if obj.get("data_base64") is not None:
        return envelope, _from_base64(obj["data_base64"])
    data = obj.get("data")
    if data is None:
        raise PoisonError("missing_field", "data")
    return envelope, json_in_text(data) if isinstance(data, str) else data


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise PoisonError("invalid_field", "data_base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise PoisonError("invalid_encoding", "data_base64") from None
