"""What the operator's commands share: times on the command line, the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from sentinel.errors import CommandError

if TYPE_CHECKING:
    from sentinel.settings import Settings
    from sentinel.store.connections import Connect


T = TypeVar("T")

_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str | None, now: dt.datetime) -> dt.datetime | None:
    """``90s``, ``15m``, ``2h``, ``3d`` ago, or a date or time in ISO 8601 (UTC where it names no zone).

    Raises CommandError where it is neither.
    """
    if text is None:
        return None
    if match := _SPAN.fullmatch(text.strip()):
        return now - dt.timedelta(seconds=int(match.group(1)) * _UNITS[match.group(2)])
    try:
        found = dt.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise CommandError(
            f"{text!r} is no time: give 15m, 2h, 3d, or an ISO date such as 2026-11-21T10:00"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def with_database(settings: Settings, work: Callable[[Connect], Awaitable[T]]) -> T:
    """Run ``work`` with connections of the store, and close them.

    Raises UnavailableError while the database is away, SchemaVersionError where it is not this release's.
    """
    from sentinel.store.connections import connect_to
    from sentinel.store.engine import create_engine
    from sentinel.store.migrate import check_schema

    async def run() -> T:
        engine = create_engine(settings.database)
        connect = connect_to(engine)
        try:
            async with connect() as conn:
                await check_schema(conn)
            return await work(connect)
        finally:
            await engine.dispose()

    return asyncio.run(run())
