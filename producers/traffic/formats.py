"""The formats that ``sentinel traffic`` writes: each that the daemon reads, by the name of ``--format``."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from producers.traffic import cloudevents, events, litellm, openai_pair, otlp
from producers.traffic.events import Exchange, Record


class Format(Struct, frozen=True):
    """How exchanges become the value and headers of one record."""

    encode: Callable[[Sequence[Exchange]], Record]
    several: bool = False
    """Whether one record may hold more than one exchange."""


FORMATS: Final[dict[str, Format]] = {
    "native": Format(events.native),
    "cloudevents": Format(cloudevents.structured),
    "cloudevents-binary": Format(cloudevents.binary),
    "cloudevents-batch": Format(cloudevents.batch, several=True),
    "otlp-span": Format(otlp.span_protobuf, several=True),
    "otlp-span-json": Format(otlp.span_json, several=True),
    "otlp-log": Format(otlp.log_protobuf, several=True),
    "otlp-log-json": Format(otlp.log_json, several=True),
    "litellm": Format(litellm.payload),
    "litellm-array": Format(litellm.array, several=True),
    "litellm-ndjson": Format(litellm.ndjson, several=True),
    "openai": Format(openai_pair.chat),
    "openai-responses": Format(openai_pair.responses),
}


def compressed(record: Record) -> Record:
    """The record with its value in gzip, as exporters send it."""
    value, headers = record
    return gzip.compress(value, mtime=0), [*headers, ("content-encoding", b"gzip")]
