from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncpg

from sentinel.store.engine import libpq_url
from sentinel.store.migrate import head, schema_version, steps

SENTINEL = Path(sys.executable).with_name("sentinel")


async def _sentinel(url: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output, errors of ``sentinel migrate``, as a program of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "SENTINEL_DATABASE__URL": url,
    }
    process = await asyncio.create_subprocess_exec(
        SENTINEL,
        "migrate",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_up_status_and_down(empty_database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    status, out, _ = await _sentinel(empty_database_url, "--status")
    assert status == 1
    assert out.count("pending (pre-deploy)") == len(steps())
    status, out, _ = await _sentinel(empty_database_url)
    assert status == 0
    assert out.count("applied ") == len(steps())
    assert await schema_version(conn) == head()
    assert (await _sentinel(empty_database_url, "--status"))[0] == 0
    assert "nothing to do" in (await _sentinel(empty_database_url))[1]
    # The way down destroys rows: it wants to be asked for twice.
    status, _, err = await _sentinel(empty_database_url, "--to", "0003")
    assert status == 2
    assert "--yes" in err
    assert await schema_version(conn) == head()
    assert (await _sentinel(empty_database_url, "--to", "0003", "--yes"))[0] == 0
    assert await schema_version(conn) == "0003"
    await conn.close()


async def test_what_cannot_be_done_is_said_without_the_password(database_url: str) -> None:
    status, _, err = await _sentinel(database_url, "--to", "0777")
    assert status == 2
    assert "known are head, base, 0001" in err
    status, _, err = await _sentinel("postgresql://u:hush@127.0.0.1:1/d")
    assert status == 1
    assert "cannot be reached" in err
    assert "hush" not in err
    status, _, err = await _sentinel(database_url.rpartition("/")[0] + "/no_such_database")
    assert status == 78
    assert "no_such_database" in err
    assert "Traceback" not in err


async def test_a_user_without_rights_is_told(empty_database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    role = f"weak_{os.getpid()}"
    await conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hush'")
    # Until PostgreSQL 15 everybody might create tables here.
    await conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        host = empty_database_url.rpartition("@")[2]
        status, _, err = await _sentinel(f"postgresql://{role}:hush@{host}")
        assert status == 78
        assert "permission denied" in err
        assert "hush" not in err
    finally:
        await conn.execute(f"DROP ROLE {role}")
        await conn.close()


async def test_sql_is_printed_without_a_database() -> None:
    status, out, _ = await _sentinel("postgresql://u:hush@127.0.0.1:1/d", "--sql")
    assert status == 0
    assert "CREATE TABLE event_keys" in out
    assert out.rstrip().endswith("COMMIT;")
