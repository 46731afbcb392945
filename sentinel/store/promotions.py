"""Changes of what is in service: each one transaction with its announcement, and how they are read back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from msgspec import Struct

from sentinel.announcements import announce_promotion
from sentinel.promotions import Promotion
from sentinel.states import AdapterState
from sentinel.store import outbox, watches
from sentinel.store.adapters import StaleStateError, adapter_of, move
from sentinel.store.admission import Admission, admit, lock_service
from sentinel.store.audit import audit

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

# The unique index on (served_model, generation), read backwards.
_NEWEST = """
SELECT DISTINCT ON (served_model) served_model, generation, adapter FROM promotions
ORDER BY served_model, generation DESC
"""

_COLUMNS = (
    "promotion_id, served_model, generation, adapter, previous_adapter, action, gate_report_id, created_at"
)

_APPEND = f"""
INSERT INTO promotions (promotion_id, served_model, generation, adapter, previous_adapter, action,
    gate_report_id, actor)
SELECT $1, $2, coalesce(max(generation), 0) + 1, $3, $4, $5, $6, $7 FROM promotions WHERE served_model = $2
RETURNING {_COLUMNS}
"""  # noqa: S608 - our own columns


class Promoted(Struct, frozen=True):
    """What the newest promotion or rollback put into service."""

    generation: int
    """Rises with every change of one served model."""
    adapter: str | None
    """Name of the adapter, None for the base."""


class Change(Struct, frozen=True):
    """One row of the history of a served model."""

    served_model: str
    adapter: str | None
    generation: int
    created_at: dt.datetime


async def promoted(conn: Connection) -> Mapping[str, Promoted]:
    """What is in service, by served model; a model that was never promoted is absent.

    Raises asyncpg's errors.
    """
    return {
        row["served_model"]: Promoted(row["generation"], row["adapter"]) for row in await conn.fetch(_NEWEST)
    }


async def newest(conn: Connection, served_model: str) -> Promotion | None:
    """The last change of a served model."""
    return _one(
        await conn.fetchrow(
            f"SELECT {_COLUMNS} FROM promotions WHERE served_model = $1 ORDER BY generation DESC LIMIT 1",  # noqa: S608 - our own columns
            served_model,
        )
    )


async def changes(conn: Connection, *, limit: int = 10_000) -> list[Change]:
    """The newest changes of all served models, in the order of their generations."""
    rows = await conn.fetch(
        "SELECT served_model, adapter, generation, created_at FROM"
        " (SELECT * FROM promotions ORDER BY created_at DESC, generation DESC LIMIT $1) AS newest"
        " ORDER BY served_model, generation",
        limit,
    )
    return [Change(**dict(row)) for row in rows]


async def predecessor_of(conn: Connection, adapter: str) -> str | None:
    """The adapter to go back to from ``adapter``: what it replaced, while that is fit for service; None: the base."""
    name: str | None = await conn.fetchval(
        "SELECT a.adapter FROM promotions p JOIN adapters a ON a.adapter = p.previous_adapter"
        " WHERE p.adapter = $1 AND p.action = 'promote' AND a.state = 'superseded'"
        " ORDER BY p.generation DESC LIMIT 1",
        adapter,
    )
    return name


async def enter_service(
    conn: Connection,
    adapter: str,
    *,
    approvals: int,
    gate_report_id: UUID | None,
    limit_rate: float,
    alpha: float,
    actor: str,
    topic: str,
) -> Promotion:
    """The promotion itself: states, history, announcement and watch in one transaction. Commits.

    Everything that speaks against it is looked at once more, under the lock: the replicas' proofs took a while.
    ``limit_rate`` and ``alpha`` belong to the sequential test that watches the adapter from now on.

    Raises:
        StaleStateError: the adapter is not ``probing``.
        PromotionRefusedError: it may not enter service any more.
    """
    async with conn.transaction():
        row = await adapter_of(conn, adapter)
        if row is None:
            raise StaleStateError(f"there is no adapter {adapter}")
        await lock_service(conn, row.served_model)
        admission: Admission = await admit(conn, row, approvals=approvals, gate_report_id=gate_report_id)
        # In this order: the index allows one promoted adapter of a served model at any moment.
        if admission.incumbent is not None:
            await move(conn, admission.incumbent, AdapterState.PROMOTED, AdapterState.SUPERSEDED)
        await move(conn, adapter, AdapterState.PROBING, AdapterState.PROMOTED)
        change = await _append(
            conn, row.served_model, adapter, admission.incumbent, "promote", admission.gate_report_id, actor
        )
        await outbox.insert(conn, [announce_promotion(change, topic)])
        await watches.end(conn, row.served_model)
        await watches.begin(conn, change.promotion_id, row.served_model, adapter, limit_rate, alpha)
        await audit(
            conn,
            actor,
            "promote",
            adapter,
            served_model=row.served_model,
            generation=change.generation,
            previous=admission.incumbent,
        )
    return change


async def roll_back(conn: Connection, adapter: str, *, actor: str, reason: str, topic: str) -> Promotion:
    """Put back what ``adapter`` replaced: states, history, announcement and watch in one transaction. Commits.

    What was replaced before its watch had ended is watched again.

    Allowed while frozen: a freeze must not keep a harmful adapter in service.

    Raises:
        StaleStateError: the adapter is not in service (any more); nothing was changed.
    """
    async with conn.transaction():
        row = await adapter_of(conn, adapter)
        if row is None:
            raise StaleStateError(f"there is no adapter {adapter}")
        await lock_service(conn, row.served_model)
        predecessor = await predecessor_of(conn, adapter)
        await move(conn, adapter, AdapterState.PROMOTED, AdapterState.ROLLED_BACK)
        if predecessor is not None:
            await move(conn, predecessor, AdapterState.SUPERSEDED, AdapterState.PROMOTED)
        change = await _append(conn, row.served_model, predecessor, adapter, "rollback", None, actor)
        await outbox.insert(conn, [announce_promotion(change, topic)])
        await watches.end(conn, row.served_model)
        if predecessor is not None:
            await watches.begin_again(conn, change.promotion_id, row.served_model, predecessor)
        await audit(
            conn,
            actor,
            "rollback",
            adapter,
            served_model=row.served_model,
            generation=change.generation,
            to=predecessor,
            reason=reason,
        )
    return change


async def _append(
    conn: Connection,
    served_model: str,
    adapter: str | None,
    previous: str | None,
    action: str,
    gate_report_id: UUID | None,
    actor: str,
) -> Promotion:
    (row,) = await conn.fetch(
        _APPEND, uuid4(), served_model, adapter, previous, action, gate_report_id, actor
    )
    return _row(row)


def _one(row: Any) -> Promotion | None:
    return None if row is None else _row(row)


def _row(row: Any) -> Promotion:
    report = row["gate_report_id"]
    # The driver's own UUID type is one that no JSON library writes.
    return Promotion(
        **{
            **dict(row),
            "promotion_id": UUID(bytes=row["promotion_id"].bytes),
            "gate_report_id": None if report is None else UUID(bytes=report.bytes),
        }
    )
