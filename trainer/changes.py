"""Jobs that change what is in service: connections for one job, and the adapter that a payload means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from sentinel.errors import CommandError
from sentinel.store.adapters import AdapterRow, adapter_of_run
from sentinel.store.engine import create_engine, raw_connection

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Settings

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]

ACTOR: Final = "trainer"
"""Who acts, in the audit log, where no person does."""


class ChangePayload(Protocol):
    """The part of a job's payload that is used here."""

    @property
    def served_model(self) -> str: ...

    @property
    def run_id(self) -> UUID: ...


@asynccontextmanager
async def connections(settings: Settings) -> AsyncIterator[Connect]:
    """A pool for as long as the block lasts; what it gives are asyncpg's own connections."""
    engine = create_engine(settings.database)

    @asynccontextmanager
    async def connect() -> AsyncIterator[asyncpg.Connection[Any]]:
        async with raw_connection(engine) as conn:
            yield conn

    try:
        yield connect
    finally:
        await engine.dispose()


async def adapter_of_payload(connect: Connect, payload: ChangePayload) -> AdapterRow:
    """The adapter that the payload's run made. Raises CommandError where it made none."""
    async with connect() as conn:
        row = await adapter_of_run(conn, payload.run_id)
    if row is None or row.served_model != payload.served_model:
        raise CommandError(f"the run {payload.run_id} has made no adapter of {payload.served_model}")
    return row
