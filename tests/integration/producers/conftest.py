"""A store and what a relay needs around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import pytest

from sentinel.settings import Database
from sentinel.store.engine import create_engine, raw_connection

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    """Opens a pooled connection of a migrated database."""
    engine = create_engine(Database.model_validate({"url": database_url}))
    yield lambda: raw_connection(engine)
    await engine.dispose()
