"""Reading values that others wrote: each function takes anything and answers with a usable value or None."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import orjson

from sentinel.errors import PoisonError

MAX_DEPTH: Final = 64
"""Nesting that is followed inside one event. The store's JSON writer gives up at 254 levels, Python near 1000."""

MAX_NAME: Final = 512
"""Characters kept of ids, model names, tenants: an index row of PostgreSQL holds 2,704 bytes."""

MAX_COUNT: Final = 2**31 - 1
"""The largest value of a 32-bit column."""

_EPOCH_UNITS: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (0.0, 1.0))
"""Epoch numbers by size: nanoseconds, microseconds, milliseconds, seconds."""
_LENIENT_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?::(\d\d)(\.\d+)?)?\s*([Zz]|[+-]\d\d:?\d\d)?"
)


def load_json(raw: bytes) -> Any:
    """Parse JSON bytes.

    Raises:
        PoisonError: ``invalid_json``, ``invalid_encoding`` or ``too_deep``.
    """
    if raw.startswith(b"\xef\xbb\xbf"):  # files of Windows tools begin with a mark that parsers refuse
        raw = raw[3:]
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "depth" in str(error) or "ecursion" in str(error):
            raise PoisonError("too_deep", "nested deeper than the parser follows") from None
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise PoisonError("invalid_encoding", "not UTF-8") from None
        raise PoisonError("invalid_json", f"line {error.lineno} column {error.colno}") from None


def json_in_text(text: str) -> Any:
    """The value of a JSON object or array that was put into a string; the string itself where it is none.

    Attribute limits of exporters cut such strings, and an answer may merely look like JSON: neither is an error.
    """
    head = text.lstrip()[:1]
    if head not in ("{", "["):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def dumps(value: Any) -> str:
    """Compact JSON text of a parsed value. Raises PoisonError ``too_deep``."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=_not_json).decode()
    except TypeError:  # orjson stops at 254 levels
        raise PoisonError("too_deep", "a value is nested deeper than can be stored") from None


def _not_json(value: object) -> str:
    return f"<{type(value).__name__}>"  # bytes of an AnyValue


def name(value: Any) -> str | None:
    """A non-empty string (an integer is written out), or None."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def count(value: Any) -> int | None:
    """A token count or an index that fits a 32-bit column; OTLP writes integers as strings."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 10):
            return None
        value = int(value)
    if isinstance(value, float):
        if not 0 <= value <= MAX_COUNT:
            return None
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def first(names: Iterable[str], source: Mapping[str, Any]) -> Any:
    """Value of the first of ``names`` that is neither absent, null nor an empty string."""
    for key in names:
        value = source.get(key)
        if value is not None and value != "":
            return value
    return None


def moment(value: Any) -> dt.datetime | None:
    """A point in time, UTC: RFC 3339 with the usual liberties, or a number since the epoch. None if it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _epoch(value)
    if not isinstance(value, str):
        return None
    try:
        parsed = msgspec.convert(value, dt.datetime)
    except msgspec.ValidationError:
        found = _LENIENT_TIME.fullmatch(value.strip())
        if found is None:
            return None
        day, minute, second, fraction, zone = found.groups()
        # A leap second is written :60, which Python refuses; so do the parsers a missing zone or seconds.
        clock = f"{minute}:{'59' if second == '60' else second or '00'}{(fraction or '')[:7]}"
        try:
            parsed = dt.datetime.fromisoformat(f"{day}T{clock}{(zone or 'Z').upper()}")
        except ValueError:
            return None
    return utc(parsed)


def utc(time: dt.datetime) -> dt.datetime | None:
    """The same moment in UTC; a time without a zone is taken as UTC. None where it leaves the calendar."""
    if time.tzinfo is None:
        return time.replace(tzinfo=dt.UTC)
    try:
        return time.astimezone(dt.UTC)
    except OverflowError:  # year 1 or 9999 with an offset
        return None


def _epoch(value: float) -> dt.datetime | None:
    if not 0 < value < 1e19:
        return None
    unit = next(unit for limit, unit in _EPOCH_UNITS if value >= limit)
    try:
        return dt.datetime.fromtimestamp(value / unit, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return None


def traceparent(value: Any) -> tuple[str | None, str | None]:
    """Trace and span id of a W3C traceparent, hex; (None, None) where it is not one."""
    if isinstance(value, str):
        fields = value.split("-")
        if len(fields) >= 4 and len(fields[1]) == 32 and len(fields[2]) == 16:
            return fields[1].lower(), fields[2].lower()
    return None, None


class Cleaner:
    """Replaces U+0000, which every JSON parser lets through and which aborts a whole insert for ever."""

    __slots__ = ("replaced",)

    def __init__(self) -> None:
        self.replaced = False

    def text(self, value: str) -> str:
        """The string with U+FFFD for U+0000."""
        if "\x00" not in value:
            return value
        self.replaced = True
        return value.replace("\x00", "\ufffd")

    def name(self, value: str | None) -> str | None:
        """A cleaned name, cut to what an index holds."""
        return None if value is None else self.text(value)[:MAX_NAME]

    def tree(self, value: Any, depth: int = 0) -> Any:
        """A JSON value with all its strings and keys cleaned. Raises PoisonError ``too_deep``."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict | list) and depth >= MAX_DEPTH:
            raise PoisonError("too_deep", f"more than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {self.text(key): self.tree(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.tree(item, depth + 1) for item in value]
        return value
