"""Decoding: one record of the log becomes items, whatever format its producer wrote.

Formats, sniffed by header, then by the topic's setting, then by keys: the product's own JSON (native.py),
CloudEvents around any of them (cloudevents.py), OTLP with GenAI content (otlp.py and its tables), LiteLLM's logging
payload (litellm.py), OpenAI request/response pairs (openai_pair.py). Everything else is poison.
"""

from __future__ import annotations

from typing import Final

from consumers.formats import cloudevents
from consumers.formats.drafts import items_of, marked_as_own, user_ref
from consumers.formats.native_fast import fast
from consumers.formats.sniff import TOPIC_FORMATS, content_type, read
from sentinel.errors import PoisonError
from sentinel.events import Headers, Ignored, Item, Origin, RawRecord

__all__ = ["TOPIC_FORMATS", "decode", "user_ref"]

_JSON: Final = "application/json"
_PLAIN: Final[Headers] = (("content-type", _JSON.encode()),)


def decode(record: RawRecord, default_format: str | None = None) -> list[Item]:
    """Make the items of one record; pure and quick, called on the event loop.

    ``default_format`` is the topic's setting, one of `TOPIC_FORMATS` or None. An empty list is possible where a
    record holds nothing at all (an export request without spans).

    Raises:
        PoisonError: the record cannot be read; ``reason`` is one of `DEAD_LETTER_REASONS`. A bad item of several
            is a `Rejected` item instead.
    """
    value = record.value
    if value is None:
        return [_ignored(record, "tombstone")]
    envelope = None
    media_type = ""
    if record.headers == _PLAIN:  # nearly every record has just this header
        media_type = _JSON
    elif record.headers:
        if marked_as_own(record.headers):
            return [_ignored(record, "own_traffic")]
        envelope = cloudevents.from_headers(record.headers)
        media_type = content_type(record.headers)
    if envelope is None and default_format in (None, "native"):
        event = fast(record, value)
        if event is not None:
            return [event]
    if not value:
        raise PoisonError("invalid_json", "an empty value")
    if envelope is None:
        return items_of(record, read(value, media_type, default_format))
    if default_format == "cloudevents":
        default_format = None
    outcomes = read(value, media_type, default_format, 1)
    return items_of(record, [envelope.applied_to(outcome, n) for n, outcome in enumerate(outcomes)])


def _ignored(record: RawRecord, reason: str) -> Ignored:
    return Ignored(Origin(record.topic, record.incarnation, record.partition, record.offset), reason)
