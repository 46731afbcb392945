"""Connections to the databases of tests/conftest.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.settings import Database
from sentinel.store.engine import create_engine, libpq_url


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection to the test's migrated database, which has no day partitions yet."""
    connection = await asyncpg.connect(libpq_url(database_url))
    yield connection
    await connection.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A second connection to the same database."""
    connection = await asyncpg.connect(libpq_url(database_url))
    yield connection
    await connection.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The product's engine on the test's database."""
    engine = create_engine(Database(url=SecretStr(database_url), pool_size=4))
    yield engine
    await engine.dispose()
