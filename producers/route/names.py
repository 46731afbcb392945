"""Model names inside JSON bytes: found and replaced in place, every other byte stays as it was.

Parsing and writing again would change numbers, escapes and the order of equal keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

Span = tuple[int, int]
"""Start and end of a JSON string, quotes included."""

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Possessive: a string that is never closed costs one pass, not a search through all ways to match it.
_TOKEN: Final = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)
_VALUE: Final = re.compile(rb"\s*:\s*(" + _STRING + rb")", re.DOTALL)
_MODEL: Final = b'"model"'
_RESPONSE: Final = b'"response"'
_QUOTE, _OBJECT, _ARRAY = b'"{['


def model_spans(body: bytes, start: int = 0, *, in_response: bool = False) -> Iterator[Span]:
    """Where the model is named in the JSON object at ``start``: under its key ``model``.

    There are several for a repeated key, of which servers take the last. With ``in_response`` also under
    ``response.model``, as events of the Responses API carry it. Nothing deeper counts: a tool's schema or a text
    may hold the same word. Bytes that are no JSON give no span or a wrong one, never an error.
    """
    depth = 0
    under_response = inside_response = False
    for match in _TOKEN.finditer(body, start):
        begin, end = match.span()
        first = body[begin]
        if first == _QUOTE:
            if depth == 1 or (depth == 2 and inside_response):
                if end - begin == len(_MODEL) and body.startswith(_MODEL, begin):
                    value = _VALUE.match(body, end)
                    if value is not None:
                        yield value.span(1)
                    if body.find(_MODEL, end) < 0:
                        # What follows is most of the body, and cannot name it again.
                        return
            if depth == 1:
                under_response = end - begin == len(_RESPONSE) and body.startswith(_RESPONSE, begin)
        elif first in (_OBJECT, _ARRAY):
            depth += 1
            if depth == 1 and first == _ARRAY:
                return
            if depth == 2:
                inside_response = in_response and under_response and first == _OBJECT
                under_response = False
        else:
            depth -= 1
            if depth <= 0:
                return


def text_at(body: bytes, span: Span) -> str | None:
    """The string that stands at ``span``, None where it is not one that a parser would take."""
    try:
        value = orjson.loads(body[span[0] : span[1]])
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def replaced(body: bytes, spans: list[Span], name: str) -> bytes:
    """``body`` with ``name`` at each of ``spans`` (ascending)."""
    encoded = orjson.dumps(name)
    pieces: list[bytes] = []
    at = 0
    for begin, end in spans:
        pieces += (body[at:begin], encoded)
        at = end
    return b"".join((*pieces, body[at:]))


def restored(body: bytes, old: str, new: str, start: int = 0) -> bytes:
    """``body`` with the first model name replaced by ``new`` where it is ``old``; the same object otherwise."""
    for span in model_spans(body, start, in_response=True):
        if text_at(body, span) == old:
            return replaced(body, [span], new)
        break
    return body
