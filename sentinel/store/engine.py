"""The database engine, and what a database error means for the one who met it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sentinel.errors import ConfigurationError, RetryableError
from sentinel.settings import Database

DRIVER = "postgresql+asyncpg"

DATABASE_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    SQLAlchemyError,
    RetryableError,
    OSError,
    TimeoutError,
)
"""Everything that connecting and a statement raise; `classify` tells them apart."""

ErrorClass = Literal["retry", "missing_partition", "poison", "unavailable", "fatal"]


def driver_url(url: str) -> str:
    """``url`` with the driver that this product uses; ``postgresql://`` and ``postgres://`` are taken too.

    Raises ConfigurationError for another database or an unreadable URL; the message hides the password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", DRIVER):
        raise ConfigurationError(f"database.url must begin with {DRIVER}:// (it begins with {scheme[:20]!r})")
    return f"{DRIVER}://{rest}"


def libpq_url(url: str) -> str:
    """The same address for asyncpg itself and for libpq's programs, which know no SQLAlchemy driver.

    Raises ConfigurationError as `driver_url` does.
    """
    return driver_url(url).replace(DRIVER, "postgresql", 1)


def create_engine(database: Database) -> AsyncEngine:
    """An engine over asyncpg; it connects when first used, in UTC whatever the server's default is.

    The pool never overflows, so that ``pool_size`` times the number of processes is all that a server must
    allow; a caller waits for a free connection as long as for a new one.
    """
    engine = create_async_engine(
        make_url(driver_url(database.url.get_secret_value())),
        pool_size=database.pool_size,
        max_overflow=0,
        pool_timeout=database.connect_timeout_s,
        connect_args={
            "timeout": database.connect_timeout_s,
            "command_timeout": database.command_timeout_s,
            "statement_cache_size": database.statement_cache_size,
            # SQLAlchemy keeps prepared statements of its own; 0 with a pooler that moves sessions about.
            "prepared_statement_cache_size": database.statement_cache_size,
            "server_settings": {"application_name": database.application_name, "timezone": "UTC"},
        },
    )
    event.listen(engine.sync_engine, "checkout", _drop_closed)
    return engine


def _drop_closed(adapted: Any, _record: Any, _proxy: Any) -> None:
    # After a restart of the server every pooled connection is closed; handing them out one by one would fail
    # as many flushes as the pool has places. Unlike a ping this costs no round trip.
    if adapted.driver_connection.is_closed():
        raise DisconnectionError("the server closed this pooled connection")


async def driver_connection(connection: AsyncConnection) -> asyncpg.Connection[Any]:
    """The asyncpg connection under a SQLAlchemy one. Raises ConfigurationError for another driver's."""
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise ConfigurationError(f"the engine's driver is {type(driver).__name__}, not asyncpg")
    return driver


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection[Any]]:
    """One pooled connection as asyncpg's own, outside any transaction (SQLAlchemy's ``driver_connection``).

    A connection that comes back inside a transaction is closed, not pooled: its next user would write into
    somebody else's transaction. Raises what asyncpg raises on connecting, and SQLAlchemy's TimeoutError where
    the pool stays full.
    """
    async with engine.connect() as connection:
        driver = await driver_connection(connection)
        try:
            yield driver
        except asyncpg.PostgresError:
            raise
        except BaseException:
            # Only an error that the server reported leaves the protocol between two messages. After a broken or
            # cancelled call the next user would meet "another operation is in progress".
            await connection.invalidate()
            raise
        finally:
            if driver.is_closed() or driver.is_in_transaction():
                await connection.invalidate()


_RETRY_STATES = frozenset({"40001", "40P01", "55P03"})
"""Serialisation failure, deadlock, lock not available."""

_UNAVAILABLE_STATES = frozenset({"25006", "57014", "57P01", "57P02", "57P03", "58030"})
"""Read-only (a demoted primary), statement timeout, shut down by an administrator or after a crash, starting up,
I/O error; with the classes 08 (connections) and 53 (no room for connections, memory or disk)."""


def classify(error: BaseException) -> ErrorClass:
    """What the writer does next. Never raises; SQLAlchemy's wrappers are opened first.

    - ``retry``: the same statements again, after the rollback
    - ``missing_partition``: make the day's partitions, then the same again
    - ``poison``: some row of the batch can never be stored; bisect
    - ``unavailable``: the database is away; the breaker opens
    - ``fatal``: a mistake of ours or of the schema; stop

    A connection lost during COMMIT is ``unavailable`` too: the writer repeats the same statements, and each
    repeated item finds its own origin.
    """
    error = _inner(error)
    if isinstance(error, (RetryableError, asyncpg.InternalClientError)):
        # An internal error of the client means that its connection is out of step: the pool has another one.
        return "unavailable"
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _classify_state(state, getattr(error, "constraint_name", None))
    if isinstance(error, asyncpg.InterfaceError):
        return "unavailable" if _is_lost(error) else "fatal"
    if isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError, EOFError, PoolTimeoutError)):
        return "unavailable"
    return "fatal"


def _classify_state(state: str, constraint: str | None) -> ErrorClass:
    if state in _RETRY_STATES:
        return "retry"
    if state in _UNAVAILABLE_STATES or state[:2] in ("08", "53"):
        return "unavailable"
    if state == "23514" and not constraint:
        # Only the routing of a partitioned table raises a check violation that names no constraint.
        return "missing_partition"
    if state[:2] in ("22", "23"):
        return "poison"
    return "fatal"


def _inner(error: BaseException) -> BaseException:
    while isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # SQLAlchemy's asyncpg adapter wraps once more and keeps the driver's error as the cause.
    cause = error.__cause__
    if not isinstance(getattr(error, "sqlstate", None), str) and isinstance(
        cause, (asyncpg.PostgresError, asyncpg.InterfaceError)
    ):
        return cause
    if isinstance(cause, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresError):
        return cause
    return error


def _is_lost(error: asyncpg.InterfaceError) -> bool:
    words = str(error)
    return "connection is closed" in words or "connection was closed" in words
