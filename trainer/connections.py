"""Connections of the trainer's processes and commands: asyncpg's own, with errors that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sentinel.errors import UnavailableError
from sentinel.store.engine import DATABASE_ERRORS, classify, create_engine, raw_connection
from sentinel.store.migrate import check_schema

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sentinel.settings import Settings

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]
T = TypeVar("T")


def connect_to(engine: AsyncEngine) -> Connect:
    """Connections of a pool.

    Raises UnavailableError where the database is away; errors of statements are the caller's to classify.
    """

    @asynccontextmanager
    async def connect() -> AsyncIterator[asyncpg.Connection[Any]]:
        try:
            async with raw_connection(engine) as conn:
                yield conn
        except DATABASE_ERRORS as error:
            if isinstance(error, UnavailableError) or classify(error) != "unavailable":
                raise
            raise UnavailableError(
                f"the database is away ({type(error).__name__}): see 'sentinel doctor'", target="database"
            ) from error

    return connect


def with_database(settings: Settings, work: Callable[[asyncpg.Connection[Any]], Awaitable[T]]) -> T:
    """Run ``work`` with one connection to a database of this release's schema, and close it.

    Raises UnavailableError while the database is away, SchemaVersionError where it is not this release's.
    """

    async def run() -> T:
        engine = create_engine(settings.database)
        try:
            async with connect_to(engine)() as conn:
                await check_schema(conn)
                return await work(conn)
        finally:
            await engine.dispose()

    return asyncio.run(run())
