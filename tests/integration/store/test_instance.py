"""One process a static group member: the lock on (group, instance)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.errors import ConfigurationError, FatalError
from sentinel.store.instance import InstanceLock
from tests.support.waiting import wait_until

HELD = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database"
HELD += " WHERE datname = current_database())"


async def test_a_second_process_is_refused_until_the_first_is_gone(engine: AsyncEngine) -> None:
    first, second = (InstanceLock(engine, "g", "1") for _ in range(2))
    await first.acquire()
    with pytest.raises(ConfigurationError, match="g/1"):
        await second.acquire()
    others = [InstanceLock(engine, "g", "2"), InstanceLock(engine, "h", "1")]
    for other in others:
        await other.acquire()
    await first.release()
    await first.release()
    await second.acquire()
    for lock in (second, *others):
        await lock.release()


async def test_a_name_of_two_parts_cannot_be_split_otherwise(engine: AsyncEngine) -> None:
    locks = [InstanceLock(engine, "a", "b/c"), InstanceLock(engine, "a/b", "c")]
    for lock in locks:
        await lock.acquire()
    for lock in locks:
        await lock.release()


async def test_a_lock_lost_with_its_connection_is_taken_again(
    engine: AsyncEngine, conn: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel.store.instance._CHECK_S", 0.05)
    lock = InstanceLock(engine, "g", "1")
    await lock.acquire()
    watching = asyncio.create_task(lock.watch())
    before = await conn.fetchval(HELD)
    await conn.execute("SELECT pg_terminate_backend($1)", before)

    async def another() -> bool:
        return await conn.fetchval(HELD) not in (None, before)

    await wait_until(another)
    assert not watching.done()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await lock.release()
    assert await conn.fetchval(HELD) is None


async def test_who_lost_it_to_another_process_stops(
    engine: AsyncEngine, conn: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel.store.instance._CHECK_S", 1.5)
    lock, thief = InstanceLock(engine, "g", "1"), InstanceLock(engine, "g", "1")
    await lock.acquire()
    watching = asyncio.create_task(lock.watch())
    await conn.execute("SELECT pg_terminate_backend($1)", await conn.fetchval(HELD))

    async def stolen() -> bool:
        try:
            await thief.acquire()
        except ConfigurationError:
            return False
        return True

    await wait_until(stolen)
    with pytest.raises(FatalError, match="another process"):
        await asyncio.wait_for(watching, 10)
    await lock.release()
    await thief.release()
