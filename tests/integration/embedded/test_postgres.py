"""The embedded PostgreSQL: what survives, what ends, and who may use a folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.errors import ConfigurationError, UnavailableError
from sentinel.store.engine import libpq_url
from tests.support.waiting import wait_until

_OWNER = """
import pathlib, sys, time
from sentinel.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False)
server.start()
print(server.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / str(request.node.name)


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(folder) as running:
        yield running


async def execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(libpq_url(server.url), timeout=60)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(server: EmbeddedPostgres, query: str) -> object:
    connection = await asyncpg.connect(libpq_url(server.url), timeout=60)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@contextlib.contextmanager
def owner(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Another process that runs the server; ends however the test ends."""
    command = [sys.executable, "-c", _OWNER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(Path.cwd())}) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def servers_of(folder: Path) -> list[int]:
    """The postmasters that work on ``folder``."""
    found = {}
    for process in psutil.process_iter(["name", "cmdline", "ppid"]):
        if process.info["name"] == "postgres" and str(folder / "data") in (process.info["cmdline"] or []):
            found[process.pid] = process.info["ppid"]
    # A child that was forked a moment ago still has its postmaster's command line.
    return [pid for pid, parent in found.items() if parent not in found]


async def test_rows_and_address_survive_a_restart(server: EmbeddedPostgres) -> None:
    await execute(server, "CREATE TABLE kept AS SELECT 7 AS n")
    before = server.url, server.pid
    await asyncio.to_thread(server.restart)
    assert server.url == before[0]
    assert server.pid != before[1]
    assert await fetch(server, "SELECT n FROM kept") == 7


async def test_committed_rows_survive_a_kill_and_uncommitted_ones_do_not(server: EmbeddedPostgres) -> None:
    await execute(server, "CREATE TABLE kept (n int)")
    connection = await asyncpg.connect(libpq_url(server.url))
    await connection.execute("INSERT INTO kept VALUES (1)")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO kept VALUES (2)")
    await asyncio.to_thread(server.kill)
    # The last of these: the driver may have seen half of the end when the statement comes.
    lost = (ConnectionError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    with pytest.raises(lost):
        await connection.execute("COMMIT")
    connection.terminate()
    assert server.pid is None
    await asyncio.to_thread(server.start)
    assert await fetch(server, "SELECT array_agg(n) FROM kept") == [1]


async def test_a_paused_server_answers_nothing_until_resumed(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(libpq_url(server.url))
    server.pause()
    asked = asyncio.ensure_future(connection.fetchval("SELECT 5"))
    done, _ = await asyncio.wait([asked], timeout=0.5)
    assert not done
    server.resume()
    assert await asyncio.wait_for(asked, 30) == 5
    await connection.close()


async def test_a_paused_server_can_be_stopped(server: EmbeddedPostgres) -> None:
    server.pause()
    await asyncio.to_thread(server.stop)
    assert server.pid is None


async def test_a_second_owner_is_refused_and_told_who_the_first_is(server: EmbeddedPostgres) -> None:
    with pytest.raises(ConfigurationError, match=f"running process {os.getpid()}"):
        EmbeddedPostgres(server.folder).start()
    assert await fetch(server, "SELECT 1") == 1


async def test_the_server_ends_with_a_killed_owner_and_its_rows_stay(folder: Path) -> None:
    with owner(folder) as (process, pid):
        assert servers_of(folder) == [pid]
        process.kill()
        await wait_until(lambda: not servers_of(folder), timeout=60)
    async with EmbeddedPostgres(folder) as server:
        assert await fetch(server, "SELECT current_database()") == "sentinel"


async def test_the_next_start_ends_an_orphan(folder: Path) -> None:
    with owner(folder) as (process, orphan):
        # The shell that would end the server is killed first, as a kill of the whole control group does
        # in any order.
        for watcher in psutil.process_iter(["cmdline"]):
            if str(folder / "data") in (watcher.info["cmdline"] or []) and watcher.pid != orphan:
                watcher.kill()
        process.kill()
        process.wait()
        await asyncio.sleep(0.3)
        assert servers_of(folder) == [orphan]
        async with EmbeddedPostgres(folder) as server:
            assert servers_of(folder) == [server.pid]
            assert server.pid != orphan
    assert servers_of(folder) == []


async def test_a_postmaster_killed_from_outside_is_started_again(server: EmbeddedPostgres) -> None:
    await execute(server, "CREATE TABLE kept AS SELECT 7 AS n")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await wait_until(lambda: server.pid is None)
    await asyncio.to_thread(server.start)
    assert await fetch(server, "SELECT n FROM kept") == 7


async def test_a_kill_while_the_cluster_is_made_leaves_no_half_of_it(folder: Path) -> None:
    unfinished = folder / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(folder, durable=False) as server:
        assert await fetch(server, "SELECT 1") == 1
    assert not unfinished.exists()


async def test_the_password_is_private_and_needed(server: EmbeddedPostgres) -> None:
    assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(libpq_url(server.url), password="wrong")


async def test_a_taken_port_is_named_in_the_error(folder: Path, server: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(folder.with_name(folder.name + "-2"), port=server.port, durable=False)
    with pytest.raises(UnavailableError, match="could not bind"):
        await asyncio.to_thread(second.start)
    # The failed start let go of everything: the same folder works on another port.
    async with EmbeddedPostgres(second.folder, durable=False) as third:
        assert await fetch(third, "SELECT 1") == 1


def test_a_cluster_of_another_major_version_is_refused(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 9\.6"):
        EmbeddedPostgres(folder).start()


def test_the_address_is_unknown_before_the_start(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="has not been started"):
        _ = EmbeddedPostgres(folder).url


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand the server to another account")
async def test_root_can_use_a_folder_that_is_closed_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o700)
    async with EmbeddedPostgres(folder / "inside", durable=False) as server:
        assert await fetch(server, "SELECT 1") == 1
        assert server.pid is not None
        assert psutil.Process(server.pid).uids().effective != 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
