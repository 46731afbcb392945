"""What would make ``sentinel run`` refuse to start, asked quickly and without changing anything."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final

from sentinel.errors import ConfigurationError, UnavailableError
from sentinel.failures import describe

if TYPE_CHECKING:
    from sentinel.settings import Settings

DATABASE_LIMIT_S: Final = 1.5
"""Time for connecting and reading the revision; a slower server is called busy, not away."""


class BusyError(UnavailableError):
    """The other side is there and gave no answer in time."""


async def precheck(settings: Settings, *, database: bool = True) -> None:
    """Return when `run` would start.

    Raises ConfigurationError for what no restart mends, UnavailableError for a database that is away, and
    BusyError for one that is slow or starting.
    """
    check_files(settings)
    check_port(settings.metrics.host, settings.metrics.port)
    if not database:
        return
    try:
        async with asyncio.timeout(DATABASE_LIMIT_S):
            await _check_database(settings)
    except TimeoutError as error:
        raise BusyError(f"the database gave no answer within {DATABASE_LIMIT_S:g} s") from error


def check_files(settings: Settings) -> None:
    """Certificates, keys and the guard's grammar can be loaded. Raises ConfigurationError."""
    from sentinel.guards.base import load_grammar
    from sentinel.kafka_security import security_arguments

    security_arguments(settings.kafka.security)
    load_grammar(settings.guard.grammar)


def check_port(host: str, port: int) -> None:
    """The health server's address can be bound. Raises ConfigurationError.

    A port in use passes: while the service runs, it is the service itself that holds it.
    """
    if port == 0:
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigurationError(f"metrics.host: {host} is no address ({error.strerror})") from error
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(
                    f"metrics: cannot listen on {host}:{port} ({error.strerror})"
                ) from error


async def _check_database(settings: Settings) -> None:
    from sentinel.store.engine import DATABASE_ERRORS, classify, create_engine, raw_connection
    from sentinel.store.migrate import check_schema

    engine = create_engine(settings.database)
    try:
        async with raw_connection(engine) as conn:
            await check_schema(conn)
    except DATABASE_ERRORS as error:
        # The same classes as in the daemon: a server that starts up answers 57P03.
        if classify(error) != "unavailable":
            raise ConfigurationError(f"database.url: the database refuses: {describe(error)}") from error
        if getattr(error, "sqlstate", None) is not None:
            raise BusyError(f"the database is not ready: {describe(error)}") from error
        raise UnavailableError(f"the database cannot be reached: {describe(error)}") from error
    finally:
        await engine.dispose()
