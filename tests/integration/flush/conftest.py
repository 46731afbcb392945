"""A partition of a migrated database with the day's partitions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.settings import Database
from sentinel.store.engine import create_engine, raw_connection
from sentinel.store.partitions import ensure_partitions
from tests.support.recordings import NOW, Ledger


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(Database(url=SecretStr(database_url), pool_size=4))
    async with raw_connection(engine) as conn:
        await ensure_partitions(conn, NOW.date(), 1)
    yield engine
    await engine.dispose()


@pytest.fixture
async def ledger(engine: AsyncEngine) -> Ledger:
    return await Ledger(engine).take()
