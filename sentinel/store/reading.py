"""Reading what was stored: pages of findings and interactions, newest first, and one event with all of its rows.

Pages go by key, not by number: a page stays right while rows are added in front of it, and costs the same
however far back it is.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy.dialects.postgresql import JSONB

from sentinel.errors import CommandError
from sentinel.store.tables import metadata

MAX_LIMIT = 500
"""Rows of one page at most."""

T = TypeVar("T")


class Position(Struct, frozen=True, array_like=True):
    """Where a page ended: time and id of its last row."""

    at: dt.datetime
    id: UUID

    def encode(self) -> str:
        """As the opaque word that a client hands back."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, word: str) -> Position:
        """The other way round. Raises CommandError for anything that `encode` did not make."""
        try:
            raw = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
            position = msgspec.json.decode(raw, type=cls)
        except (binascii.Error, msgspec.DecodeError, ValueError) as error:
            raise CommandError("this page position was not given out by this product") from error
        if position.at.tzinfo is None:
            raise CommandError("this page position was not given out by this product")
        return position


class Page(Struct, Generic[T], frozen=True):
    """Some rows, newest first, and where the next page begins; None after the last row."""

    rows: tuple[T, ...]
    next: Position | None


class FindingRow(Struct, frozen=True, kw_only=True):
    """A finding as listed; without text."""

    finding_id: UUID
    event_id: UUID
    day: dt.date
    created_at: dt.datetime
    policy_version: str
    label: str
    categories: tuple[str, ...]
    score: float | None
    model: str | None
    served_model: str | None
    served_by: str | None
    source: str | None
    tenant: str | None
    reprompt_state: str


class InteractionRow(Struct, frozen=True, kw_only=True):
    """An interaction as listed; without text."""

    event_id: UUID
    day: dt.date
    recorded_at: dt.datetime
    format: str
    source: str | None
    tenant: str | None
    model: str | None
    served_model: str | None
    served_by: str | None
    outcome: str
    reason: str
    prompt_label: str | None
    response_label: str | None
    refusal: bool | None
    unsafe: bool | None


class EventRows(Struct, frozen=True, kw_only=True):
    """Everything that is stored about one event, as column-to-value mappings."""

    interaction: dict[str, Any]
    texts: dict[str, Any] | None
    """None where the texts have expired."""
    verdicts: tuple[dict[str, Any], ...]
    screenings: tuple[dict[str, Any], ...]
    finding: dict[str, Any] | None
    reprompts: tuple[dict[str, Any], ...]
    pairs: tuple[dict[str, Any], ...]


_JSON = frozenset(
    column.name
    for table in metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, JSONB)
)

_LAST = Position(dt.datetime.max.replace(tzinfo=dt.UTC), UUID(int=2**128 - 1))

_FINDINGS = f"""
SELECT {", ".join(FindingRow.__struct_fields__)}
FROM findings
WHERE (created_at, finding_id) < ($1, $2)
ORDER BY created_at DESC, finding_id DESC
LIMIT $3
"""  # noqa: S608 -- column names of this module

_INTERACTIONS = f"""
SELECT {", ".join(InteractionRow.__struct_fields__)}
FROM interactions
WHERE recorded_at >= $4 AND recorded_at <= $1 AND (recorded_at, event_id) < ($1, $2) {{only}}
ORDER BY recorded_at DESC, event_id DESC
LIMIT $3
"""  # noqa: S608 -- column names of this module


async def findings(
    conn: asyncpg.Connection[Any], *, before: Position | None = None, limit: int = 50
) -> Page[FindingRow]:
    """One page of findings. Raises what asyncpg raises."""
    start, size = before or _LAST, _size(limit)
    rows = await conn.fetch(_FINDINGS, start.at, start.id, size + 1)
    found = [msgspec.convert(dict(row), FindingRow) for row in rows]
    return _page(found, size, lambda row: Position(row.created_at, row.finding_id))


async def interactions(
    conn: asyncpg.Connection[Any],
    *,
    since: dt.datetime,
    before: Position | None = None,
    limit: int = 50,
    unsafe: bool = False,
) -> Page[InteractionRow]:
    """One page of the interactions recorded from ``since`` on, all of them or the unsafe ones.

    All of them are found by block ranges and sorted, so that ``since`` bounds the work: give it hours, not
    months. The unsafe ones have an index in this order. Raises what asyncpg raises.
    """
    start, size = before or _LAST, _size(limit)
    query = _INTERACTIONS.format(only="AND unsafe" if unsafe else "")
    rows = await conn.fetch(query, start.at, start.id, size + 1, since)
    found = [msgspec.convert(dict(row), InteractionRow) for row in rows]
    return _page(found, size, lambda row: Position(row.recorded_at, row.event_id))


async def event(conn: asyncpg.Connection[Any], event_id: UUID) -> EventRows | None:
    """All rows of one event in one snapshot, or None where nothing (any more) is stored.

    Raises what asyncpg raises.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        # The key knows the day; without it every day's partition would be asked.
        day = await conn.fetchval("SELECT day FROM event_keys WHERE event_id = $1", event_id)
        stored = await _of_day(conn, "interactions", day, event_id)
        if not stored:
            return None
        texts = await _of_day(conn, "interaction_texts", day, event_id)
        found = _dicts(await conn.fetch("SELECT * FROM findings WHERE event_id = $1", event_id))
        finding_id = found[0]["finding_id"] if found else None
        return EventRows(
            interaction=stored[0],
            texts=texts[0] if texts else None,
            verdicts=await _of_day(conn, "verdicts", day, event_id, "role, attempt, score_run, guard_id"),
            screenings=await _of_day(conn, "screenings", day, event_id, "screener_id"),
            finding=found[0] if found else None,
            reprompts=_dicts(
                await conn.fetch("SELECT * FROM reprompts WHERE finding_id = $1 ORDER BY attempt", finding_id)
            ),
            pairs=_dicts(
                await conn.fetch(
                    "SELECT * FROM preference_pairs WHERE finding_id = $1 ORDER BY attempt", finding_id
                )
            ),
        )


async def _of_day(
    conn: asyncpg.Connection[Any], table: str, day: dt.date | None, event_id: UUID, order: str = "event_id"
) -> tuple[dict[str, Any], ...]:
    query = f"SELECT * FROM {table} WHERE day = $1 AND event_id = $2 ORDER BY {order}"  # noqa: S608 -- our names
    return _dicts(await conn.fetch(query, day, event_id))


def _dicts(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple({name: _value(name, value) for name, value in row.items()} for row in rows)


def _value(name: str, value: Any) -> Any:
    # asyncpg hands JSON over as text.
    return msgspec.json.decode(value) if name in _JSON and value is not None else value


def _size(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise CommandError(f"a page has 1 to {MAX_LIMIT} rows, not {limit}")
    return limit


def _page(found: Sequence[T], size: int, position: Callable[[T], Position]) -> Page[T]:
    rows = tuple(found[:size])
    return Page(rows, position(rows[-1]) if len(found) > size else None)
