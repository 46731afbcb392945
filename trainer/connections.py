"""Connections of the trainer's commands, and of the processes that do one job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sentinel.store.connections import Connect, connect_to
from sentinel.store.engine import create_engine, raw_connection
from sentinel.store.migrate import check_schema

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Settings

T = TypeVar("T")


@asynccontextmanager
async def connections(settings: Settings) -> AsyncIterator[Connect]:
    """A pool for as long as the block lasts. What is done with a connection may raise anything: it stays as it is."""
    engine = create_engine(settings.database)
    try:
        yield lambda: raw_connection(engine)
    finally:
        await engine.dispose()


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
