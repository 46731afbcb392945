"""One PostgreSQL server of a version for the whole run, one database for each test."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from sentinel.embedded.postgres_binaries import Programs
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import migrate

_FOLDER = Path(__file__).resolve().parents[2] / ".cache/postgres14"
POSTGRES14 = Programs(_FOLDER / "native/bin", "14")
"""What scripts/setup-postgres14 installs."""


def require_postgres14() -> None:
    """Skip the test where PostgreSQL 14 is missing; fail it where the environment says that it must not be."""
    if (_FOLDER / ".setup-stamp").is_file():
        return
    reason = f"no PostgreSQL 14 in {_FOLDER}: run scripts/setup-postgres14"
    if os.environ.get("SENTINEL_TEST_REQUIRE_POSTGRES14") == "1":
        pytest.fail(f"PostgreSQL 14 is required: {reason}", pytrace=False)
    pytest.skip(reason)


def apply_migrations(url: str) -> None:
    """Bring the database to the newest schema; blocks, outside a running loop only."""
    asyncio.run(migrate(url))


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)


class Databases:
    """Makes and drops databases on one server; the migrated template is made once.

    Copying a template takes a few milliseconds where migrating takes a second.
    """

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        # Two runs may share a server given by SENTINEL_TEST_DATABASE_URL.
        self._prefix = f"test_{uuid.uuid4().hex[:8]}"
        self._template = f"{self._prefix}_template"
        self._made = 0

    def prepare(self) -> None:
        asyncio.run(self._execute(f'CREATE DATABASE "{self._template}"'))
        apply_migrations(with_database(self.admin_url, self._template))

    def close(self) -> None:
        asyncio.run(self._execute(f'DROP DATABASE IF EXISTS "{self._template}" WITH (FORCE)'))

    @asynccontextmanager
    async def database(self, *, migrated: bool = True) -> AsyncIterator[str]:
        """A fresh database's URL (``postgresql+asyncpg://…``); dropped at the end, open sessions or not."""
        self._made += 1
        name = f"{self._prefix}_{self._made}"
        template = self._template if migrated else "template1"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield with_database(self.admin_url, name)
        finally:
            await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(libpq_url(self.admin_url))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
