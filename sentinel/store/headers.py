"""Record headers as JSON text: a list of [name, base64 or null], since values are bytes and names repeat."""

from __future__ import annotations

import base64
import binascii

import orjson

from sentinel.events import Headers


def headers_to_json(headers: Headers) -> str:
    """JSON text for a jsonb column; names lose what PostgreSQL cannot store (U+0000, lone surrogates)."""
    return orjson.dumps(
        [
            [storable(name), None if value is None else base64.b64encode(value).decode()]
            for name, value in headers
        ]
    ).decode()


def headers_from_json(text: str) -> Headers:
    """The headers of a stored row.

    Raises:
        ValueError: the text is not what `headers_to_json` writes.
    """
    try:
        return tuple(
            (name, None if value is None else base64.b64decode(value, validate=True))
            for name, value in orjson.loads(text)
        )
    except (TypeError, binascii.Error) as error:
        raise ValueError("stored headers are not a list of [name, base64]") from error


def storable(text: str) -> str:
    """Text that a PostgreSQL text column takes: one U+0000 would abort every row written with it."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
