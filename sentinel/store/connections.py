"""Connections of a pool for parts that only need to know whether the database is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from sentinel.errors import UnavailableError
from sentinel.store.engine import DATABASE_ERRORS, classify, raw_connection

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncEngine

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]
"""Gives one of asyncpg's own connections for a block."""


def connect_to(engine: AsyncEngine) -> Connect:
    """Connections of ``engine``'s pool.

    Raises UnavailableError, with the server's address, where the database is away; other errors of statements are the
    caller's to classify. Nothing else may be done in the block: a disk that is full would pass for a lost connection.
    """
    place = _place(engine)

    @asynccontextmanager
    async def connect() -> AsyncIterator[asyncpg.Connection[Any]]:
        try:
            async with raw_connection(engine) as conn:
                yield conn
        except DATABASE_ERRORS as error:
            if isinstance(error, UnavailableError) or classify(error) != "unavailable":
                raise
            raise UnavailableError(
                f"the database at {place} is away ({type(error).__name__}): see 'sentinel doctor'",
                target="database",
            ) from error

    return connect


def _place(engine: AsyncEngine) -> str:
    """Where the database is, without user and password."""
    url = engine.url
    host = url.host or url.query.get("host") or "localhost"
    return f"{host if isinstance(host, str) else ','.join(host)}:{url.port or url.query.get('port') or 5432}"
