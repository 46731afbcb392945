from __future__ import annotations

import asyncio

import asyncpg
import pytest

from sentinel.errors import CommandError
from sentinel.store.engine import libpq_url
from sentinel.store.tries import MAX_TRIES, next_try, spent


async def test_the_same_candidate_keeps_its_number(database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(database_url))
    try:
        first = await next_try(conn, "chat", "v1", "a", sets=[{"name": "harmful", "items": 600}])
        assert [(await next_try(conn, "chat", "v1", name)).k for name in ("b", "a", "c", "b")] == [2, 1, 3, 2]
        assert first.k == 1
        # Another version and another served model count for themselves.
        assert (await next_try(conn, "chat", "v2", "b")).k == 1
        assert (await next_try(conn, "other", "v1", "b")).k == 1
        assert await conn.fetchval(
            "SELECT sets ->0 ->> 'items' FROM evaluation_versions WHERE served_model = 'chat' AND version = 'v1'"
        ) == ("600")
    finally:
        await conn.close()


async def test_the_levels_add_up_to_less_than_alpha() -> None:
    assert spent(0.05, 1) == pytest.approx(0.0303963551)
    assert spent(0.05, 5) == pytest.approx(0.0303963551 / 25)
    assert 0.048 < sum(spent(0.05, k) for k in range(1, MAX_TRIES + 1)) < 0.05
    assert sum(spent(0.05, k) for k in range(1, 100_000)) < 0.05
    with pytest.raises(CommandError, match="counted from 1"):
        spent(0.05, 0)


async def test_after_the_last_try_the_version_is_retired(database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(database_url))
    try:
        for k in range(1, MAX_TRIES + 1):
            assert (
                await conn.fetchval("SELECT max(retired_at) FROM evaluation_versions WHERE version = 'v1'")
                is None
            )
            assert (await next_try(conn, "chat", "v1", f"candidate {k}")).k == k
        retired = await conn.fetchval("SELECT retired_at FROM evaluation_versions WHERE version = 'v1'")
        assert retired is not None
        with pytest.raises(CommandError, match="measured 20 candidates and is retired: draw new sets with"):
            await next_try(conn, "chat", "v1", "one too many")
        # A run that resumes keeps its number.
        assert (await next_try(conn, "chat", "v1", "candidate 20")).k == 20
        assert (
            await conn.fetchval("SELECT retired_at FROM evaluation_versions WHERE version = 'v1'") == retired
        )
        assert await conn.fetchval("SELECT count(*) FROM evaluation_tries") == MAX_TRIES
    finally:
        await conn.close()


async def test_a_version_retired_by_hand_takes_no_new_candidate(database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(database_url))
    try:
        await next_try(conn, "chat", "v1", "a")
        await conn.execute("UPDATE evaluation_versions SET retired_at = now()")
        with pytest.raises(CommandError, match="retired"):
            await next_try(conn, "chat", "v1", "b")
        assert (await next_try(conn, "chat", "v1", "a")).k == 1
    finally:
        await conn.close()


async def test_tries_at_once_get_different_numbers(database_url: str) -> None:
    pool = await asyncpg.create_pool(libpq_url(database_url), min_size=6, max_size=6)
    try:

        async def one(candidate: str) -> int:
            async with pool.acquire() as conn:
                return (await next_try(conn, "chat", "v1", candidate)).k  # type: ignore[arg-type]

        # Each candidate is counted by two processes at once.
        found = await asyncio.gather(*(one(f"c{at % 9}") for at in range(18)))
        assert sorted(found[:9]) == list(range(1, 10))
        assert found[:9] == found[9:]
    finally:
        await pool.close()


async def test_more_at_once_than_the_budget_allows(database_url: str) -> None:
    pool = await asyncpg.create_pool(libpq_url(database_url), min_size=6, max_size=6)
    try:

        async def one(candidate: str) -> int | str:
            async with pool.acquire() as conn:
                try:
                    return (await next_try(conn, "chat", "v1", candidate, limit=3)).k  # type: ignore[arg-type]
                except CommandError:
                    return "refused"

        found = await asyncio.gather(*(one(f"c{at}") for at in range(6)))
        assert sorted(found, key=str) == [1, 2, 3, "refused", "refused", "refused"]
    finally:
        await pool.close()


async def test_a_try_is_not_counted_inside_a_transaction(database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(database_url))
    try:
        async with conn.transaction():
            with pytest.raises(CommandError, match="committed before its first prompt"):
                await next_try(conn, "chat", "v1", "a")
        assert await conn.fetchval("SELECT count(*) FROM evaluation_tries") == 0
    finally:
        await conn.close()
