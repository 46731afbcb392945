"""The watch over a promoted adapter: its counts, its limit, and how it ended.

All functions take a raw asyncpg connection and raise asyncpg's errors.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Struct

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_COLUMNS = (
    "promotion_id, served_model, adapter, limit_rate, alpha, responses, unsafe, log_e_value, started_at"
)

# A response that the adapter gave before it was promoted (a probe, an evaluation on a live server) is not traffic
# under the public name; the bound of rows keeps one look cheap however long the daemon was away.
_TALLY = """
SELECT count(*) AS n, count(*) FILTER (WHERE unsafe) AS unsafe FROM (
    SELECT unsafe FROM interactions
    WHERE served_model = $1 AND served_by = $2 AND outcome = 'stored'
      AND recorded_at >= $3 AND day >= ($3::timestamptz AT TIME ZONE 'UTC')::date - 1
    ORDER BY recorded_at LIMIT $4
) AS found
"""

_RATE = """
SELECT count(*) AS n, count(*) FILTER (WHERE unsafe) AS unsafe FROM (
    SELECT unsafe FROM interactions
    WHERE served_model = $1 AND outcome = 'stored' AND {who}
      AND recorded_at >= now() - make_interval(days => $3)
      AND day >= (now() AT TIME ZONE 'UTC')::date - $3 - 1
    ORDER BY recorded_at DESC LIMIT $4
) AS found
"""
_BY_ADAPTER = _RATE.format(who="served_by = $2")
_BY_BASE = _RATE.format(
    who="(served_by IS NULL OR served_by <> ALL("
    "SELECT adapter FROM adapters WHERE served_model = $1)) AND $2::text IS NULL"
)

ENOUGH = 2_000
"""Responses after which an older day is not asked for a rate."""
_DAYS = (1, 30)
_LARGEST = 20_000


class Watch(Struct, frozen=True, kw_only=True):
    """A sequential test under way; the limit and the level were fixed at the promotion."""

    promotion_id: UUID
    served_model: str
    adapter: str
    limit_rate: float
    alpha: float
    responses: int
    unsafe: int
    log_e_value: float
    started_at: dt.datetime


async def begin(
    conn: Connection, promotion_id: UUID, served_model: str, adapter: str, limit_rate: float, alpha: float
) -> None:
    """Watch a promotion from now on; in the promotion's transaction."""
    await conn.execute(
        "INSERT INTO promotion_watches (promotion_id, served_model, adapter, limit_rate, alpha)"
        " VALUES ($1, $2, $3, $4, $5)",
        promotion_id,
        served_model,
        adapter,
        limit_rate,
        alpha,
    )


async def begin_again(conn: Connection, promotion_id: UUID, served_model: str, adapter: str) -> bool:
    """Watch an adapter that a rollback put back, by its promotion's limit and level; in the rollback's transaction.

    False, and nothing is begun, where it was proven before (or never watched).
    """
    begun = await conn.fetchval(
        "INSERT INTO promotion_watches (promotion_id, served_model, adapter, limit_rate, alpha)"
        " SELECT $1, served_model, adapter, limit_rate, alpha FROM ("
        "SELECT * FROM promotion_watches WHERE served_model = $2 AND adapter = $3"
        " ORDER BY started_at DESC LIMIT 1) AS newest"
        " WHERE state <> 'proven' RETURNING true",
        promotion_id,
        served_model,
        adapter,
    )
    return begun is True


async def end(conn: Connection, served_model: str) -> None:
    """End what is watched of a served model: something else is in service now."""
    await conn.execute(
        "UPDATE promotion_watches SET state = 'ended', ended_at = now()"
        " WHERE served_model = $1 AND state = 'watching'",
        served_model,
    )


async def watching(conn: Connection) -> list[Watch]:
    """The watches under way."""
    rows = await conn.fetch(f"SELECT {_COLUMNS} FROM promotion_watches WHERE state = 'watching'")  # noqa: S608 - our own columns
    return [Watch(**dict(row)) for row in rows]


async def of_adapter(conn: Connection, served_model: str, adapter: str) -> UUID | None:
    """The newest watch over ``adapter``, by its promotion."""
    promotion_id: UUID | None = await conn.fetchval(
        "SELECT promotion_id FROM promotion_watches WHERE served_model = $1 AND adapter = $2"
        " ORDER BY started_at DESC LIMIT 1",
        served_model,
        adapter,
    )
    return promotion_id


async def tally(conn: Connection, watch: Watch) -> tuple[int, int]:
    """Scored responses attributed to the watched adapter since its promotion, and the unsafe ones among them."""
    (row,) = await conn.fetch(_TALLY, watch.served_model, watch.adapter, watch.started_at, _LARGEST)
    return row["n"], row["unsafe"]


async def live_rate(conn: Connection, served_model: str, adapter: str | None) -> tuple[int, int]:
    """Newest scored responses of an adapter (None: of the base), at most 20,000, and the unsafe ones among them.

    A client's own rating and the answers to re-prompts are no part of either.
    """
    n = unsafe = 0
    for days in _DAYS:
        statement = _BY_BASE if adapter is None else _BY_ADAPTER
        (row,) = await conn.fetch(statement, served_model, adapter, days, _LARGEST)
        n, unsafe = row["n"], row["unsafe"]
        if n >= ENOUGH:
            break
    return n, unsafe


async def note(conn: Connection, watch: Watch, *, responses: int, unsafe: int, log_e_value: float) -> None:
    """Store where a watch stands."""
    await conn.execute(
        "UPDATE promotion_watches SET responses = $2, unsafe = $3, log_e_value = $4"
        " WHERE promotion_id = $1 AND state = 'watching'",
        watch.promotion_id,
        responses,
        unsafe,
        log_e_value,
    )


async def lock_open(conn: Connection, promotion_id: UUID) -> bool:
    """Whether a watch may still alarm (``watching`` or ``proven``); nobody else decides until this transaction ends."""
    state = await conn.fetchval(
        "SELECT state FROM promotion_watches WHERE promotion_id = $1 FOR UPDATE", promotion_id
    )
    return state in {"watching", "proven"}


async def settle(conn: Connection, promotion_id: UUID, state: str) -> None:
    """Enter ``proven`` or ``alarmed``, under `lock_open`'s lock."""
    await conn.execute(
        "UPDATE promotion_watches SET state = $2, ended_at = now() WHERE promotion_id = $1",
        promotion_id,
        state,
    )
