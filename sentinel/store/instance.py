"""One process a static group member: an advisory lock on (group, instance) held for the process's life.

Two processes with one instance id would steal every partition from each other for ever, without an error.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from sentinel import logs
from sentinel.errors import ConfigurationError, FatalError
from sentinel.store.engine import DATABASE_ERRORS, raw_connection

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logs.get("sentinel.store.instance")
_CHECK_S = 10.0


class InstanceLock:
    """Session-level advisory lock; a lost connection is a lost lock, so it is checked and taken again."""

    def __init__(self, engine: AsyncEngine, group_id: str, instance_id: str) -> None:
        self._engine = engine
        self._name = f"{group_id}/{instance_id}"
        digest = hashlib.sha256(f"instance\x1f{group_id}\x1f{instance_id}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._stack = AsyncExitStack()
        self._conn: asyncpg.Connection[Any] | None = None

    async def acquire(self) -> None:
        """Take the lock. Raises ConfigurationError when another process holds it."""
        conn = await self._stack.enter_async_context(raw_connection(self._engine))
        if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", self._key):
            await self._stack.aclose()
            raise ConfigurationError(
                f"another process runs as {self._name}: give each its own kafka.instance_id, or none"
            )
        self._conn = conn

    async def watch(self) -> None:
        """Keep the lock until cancelled. Raises FatalError when another process took it meanwhile."""
        while True:
            await asyncio.sleep(_CHECK_S)
            try:
                if self._conn is not None and not self._conn.is_closed():
                    await self._conn.fetchval("SELECT 1")
                    continue
            except DATABASE_ERRORS:
                pass
            await self._retake()

    async def _retake(self) -> None:
        await self.release()
        try:
            await self.acquire()
        except ConfigurationError as error:
            raise FatalError(str(error)) from error
        except DATABASE_ERRORS:
            return  # the database is away; so is every other process's claim
        _log.warning(
            "The lock of this group member was taken again.", action="instance_lock", member=self._name
        )

    async def release(self) -> None:
        """Give the lock back with its connection; idempotent."""
        conn, self._conn = self._conn, None
        if conn is not None and not conn.is_closed():
            # A failure does not matter: the session ends with the connection, and the lock with it.
            with suppress(*DATABASE_ERRORS):
                await conn.fetchval("SELECT pg_advisory_unlock($1)", self._key)
        await self._stack.aclose()
