"""The audit log: who changed what, in the transaction that changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from sentinel.store.headers import storable

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_INSERT = "INSERT INTO audit_log (actor, action, subject, detail) VALUES ($1, $2, $3, $4::text::jsonb)"


async def audit(conn: Connection, actor: str, action: str, subject: str, **detail: object) -> None:
    """Append a row; it stands or falls with the caller's transaction. Raises asyncpg's errors."""
    text = orjson.dumps(detail, default=str).decode()
    await conn.execute(_INSERT, storable(actor), action, storable(subject), storable(text))
