"""Which format a record has: its headers first, then the topic's setting, then the keys of the JSON.

Compressed values are opened here, by their first bytes too: exporters compress, and a Collector's Kafka exporter
writes no headers at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from consumers.formats import cloudevents, litellm, native, openai_pair, otlp, otlp_wire
from consumers.formats.drafts import MAX_ITEMS, Bad, Outcome
from consumers.formats.fields import load_json, mapping
from sentinel.errors import PoisonError
from sentinel.events import Headers

MAX_UNCOMPRESSED: Final = 32 * 1024 * 1024
"""Bytes that a compressed value may open to: a few kilobytes can hold gigabytes of zeros."""

TOPIC_FORMATS: Final = frozenset(
    {"native", "cloudevents", "otlp", "otlp_proto", "otlp_json", "litellm", "openai"}
)
"""What ``kafka.topic_formats`` may name; ``otlp_proto`` and ``otlp_json`` are the Collector's names."""

_GZIP: Final = b"\x1f\x8b"
_PROTOBUF_TYPES: Final = frozenset(
    {"application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf"}
)
_MAX_ENVELOPES: Final = 4

_Reader = Callable[[dict[str, Any]], Iterable[Outcome]]


def content_type(headers: Headers) -> str:
    """Media type of the ``content-type`` header, lower case and without parameters; empty if there is none."""
    for key, value in headers:
        if value is not None and key.lower() in ("content-type", "contenttype", "content_type"):
            return value.decode("latin-1").partition(";")[0].strip().lower()
    return ""


def read(value: bytes, media_type: str, topic_format: str | None, depth: int = 0) -> list[Outcome]:
    """Outcomes of one value.

    Raises:
        PoisonError: the value as a whole cannot be read.
    """
    if value[:2] == _GZIP:
        value = gunzip(value)
    # A JSON envelope around protobuf may carry the data's content type, so the first character counts more.
    is_text = value[:64].lstrip()[:1] in (b"{", b"[")
    if media_type in _PROTOBUF_TYPES and not is_text:
        return otlp.read_protobuf(value)
    if not media_type and topic_format in ("otlp", "otlp_proto") and not is_text:
        return otlp.read_protobuf(value)
    if value[:1] == b"\n" and "json" not in media_type and topic_format in (None, "otlp", "otlp_proto"):
        # Field 1 of an export request has the same byte as a line feed before JSON.
        try:
            return otlp.read_protobuf(value)
        except PoisonError:
            if not is_text:
                raise
    if media_type.startswith(cloudevents.STRUCTURED):
        topic_format = "cloudevents"
    documents = _documents(value)
    if isinstance(documents, list):
        return _read_many(documents, topic_format, depth)
    return _read_value(documents, topic_format, depth)


def read_object(obj: dict[str, Any], topic_format: str | None, depth: int = 0) -> list[Outcome]:
    """Outcomes of one JSON object. Raises PoisonError."""
    if cloudevents.looks_structured(obj):
        # The topic's setting is then about what the envelope holds.
        return _read_envelope(obj, None if topic_format == "cloudevents" else topic_format, depth)
    if topic_format == "cloudevents":
        raise PoisonError("missing_field", "specversion")
    reader = _by_topic(topic_format) or _by_keys(obj)
    if reader is None:
        raise PoisonError("unknown_schema", "no known format has these keys")
    return list(reader(obj))


def gunzip(value: bytes) -> bytes:
    """Open a gzip value. Raises PoisonError ``too_large`` or ``invalid_encoding``."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        opened = stream.decompress(value, MAX_UNCOMPRESSED)
    except zlib.error:
        raise PoisonError("invalid_encoding", "broken gzip") from None
    if stream.unconsumed_tail:
        raise PoisonError("too_large", f"opens to more than {MAX_UNCOMPRESSED} bytes")
    if not stream.eof:
        raise PoisonError("invalid_encoding", "gzip ends early")
    return opened


def _by_topic(topic_format: str | None) -> _Reader | None:
    match topic_format:
        case "native":
            return lambda obj: [native.read(obj)]
        case "litellm":
            return lambda obj: [litellm.read(obj)]
        case "openai":
            return openai_pair.read
        case "otlp" | "otlp_proto" | "otlp_json":
            return otlp.read_json
        case _:
            return None


def _by_keys(obj: dict[str, Any]) -> _Reader | None:
    if otlp_wire.looks_otlp(obj):
        return otlp.read_json
    if litellm.looks_like_payload(obj):
        return lambda held: [litellm.read(held)]
    if openai_pair.looks_like_pair(obj):
        return openai_pair.read
    if otlp.looks_flat(obj):
        return lambda held: [otlp.read_flat(held)]
    if not native.REQUIRED.isdisjoint(obj):
        return lambda held: [native.read(held)]
    return None


def _read_envelope(obj: dict[str, Any], topic_format: str | None, depth: int) -> list[Outcome]:
    if depth >= _MAX_ENVELOPES:
        raise PoisonError("too_deep", "envelopes in envelopes")
    envelope, data = cloudevents.open_structured(obj)
    if isinstance(data, bytes):
        inner = str(mapping(envelope.attributes).get("datacontenttype") or "")
        outcomes = read(data, inner.partition(";")[0].strip().lower(), topic_format, depth + 1)
    else:
        outcomes = _read_value(data, topic_format, depth + 1)
    return [envelope.applied_to(outcome, number) for number, outcome in enumerate(outcomes)]


def _documents(value: bytes) -> Any:
    """The parsed value; for newline-delimited JSON a list, in which broken lines are `Bad`."""
    try:
        return load_json(value)
    except PoisonError as whole:
        lines = [line for line in value.split(b"\n") if line.strip()]
        if len(lines) < 2 or whole.reason != "invalid_json":
            raise
    if len(lines) > MAX_ITEMS:
        raise PoisonError("too_many_items", f"more than {MAX_ITEMS} lines")
    documents = [_line(line) for line in lines]
    # Pretty-printed JSON that was cut has lines too, but none of them is an object.
    if not any(isinstance(document, dict) for document in documents):
        raise PoisonError("invalid_json", "neither JSON nor lines of it")
    return documents


def _line(line: bytes) -> Any:
    try:
        return load_json(line)
    except PoisonError as error:
        return Bad(error.reason, error.detail)


def _read_many(documents: list[Any], topic_format: str | None, depth: int) -> list[Outcome]:
    if len(documents) > MAX_ITEMS:
        raise PoisonError("too_many_items", f"{len(documents)} elements")
    outcomes: list[Outcome] = []
    for document in documents:
        if isinstance(document, Bad):
            outcomes.append(document)
            continue
        try:
            outcomes += _read_value(document, topic_format, depth)
        except PoisonError as error:
            if len(documents) == 1:
                raise
            outcomes.append(Bad(error.reason, error.detail))
    return outcomes


def _read_value(value: Any, topic_format: str | None, depth: int) -> list[Outcome]:
    if isinstance(value, dict):
        return read_object(value, topic_format, depth)
    if isinstance(value, list) and depth < _MAX_ENVELOPES:
        return _read_many(value, topic_format, depth + 1)
    raise PoisonError("unknown_schema", "not a JSON object")
