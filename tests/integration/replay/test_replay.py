"""A file is a log: read twice, cut short or resumed, each of its lines counts once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest

from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.store.engine import libpq_url
from tests.support.accounting import Account, account, assert_sums
from tests.support.daemon_process import environment
from tests.support.events import encoded, many
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

SENTINEL = Path(sys.executable).with_name("sentinel")


@dataclass(frozen=True)
class Ran:
    """How a replay ended."""

    status: int
    out: str
    err: str

    @property
    def sums(self) -> dict[str, int]:
        return {name: int(n) for name, n in (line.split() for line in self.out.splitlines())}


class Replay:
    def __init__(self, database_url: str, guard: ScriptedGuard, folder: Path) -> None:
        self.database_url, self.folder = database_url, folder
        self.settings = {
            "database.url": database_url,
            "guard.base_url": guard.url,
            "guard.name": "scripted-guard",
            "guard.timeout_s": "60",
            "consumer.halt_check_s": "0.3",
            "logging.level": "error",
        }

    @asynccontextmanager
    async def process(self, *arguments: str, stdin: bytes = b"") -> AsyncIterator[asyncio.subprocess.Process]:
        """A running replay; killed at the end of the block at the latest."""
        process = await asyncio.create_subprocess_exec(
            SENTINEL,
            "replay",
            *arguments,
            env=environment(self.settings),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        async with self.process(*arguments, stdin=stdin) as process:
            return await self.end(process)

    async def end(self, process: asyncio.subprocess.Process) -> Ran:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = await asyncio.wait_for(asyncio.gather(process.stdout.read(), process.stderr.read()), 180)
        return Ran(await process.wait(), out.decode(), err.decode())

    def file(self, content: bytes) -> str:
        path = self.folder / "events.jsonl"
        path.write_bytes(content)
        return str(path)

    async def account(self, content: bytes) -> Account:
        return await account(self.database_url, "file:" + sha256(content).hexdigest())

    async def passed(self) -> int:
        """Lines of all files that the store has passed."""
        conn = await asyncpg.connect(libpq_url(self.database_url))
        try:
            return int(await conn.fetchval("SELECT coalesce(sum(next_offset), 0) FROM consumer_offsets"))
        finally:
            await conn.close()


@pytest.fixture
def replay(database_url: str, guard: ScriptedGuard, tmp_path: Path) -> Replay:
    return Replay(database_url, guard, tmp_path)


async def test_a_file_given_twice_counts_once(replay: Replay, guard: ScriptedGuard) -> None:
    content = b"\n".join([*many(60, unsafe_every=6), b"{broken"]) + b"\n"
    file = replay.file(content)
    first = await replay(file)
    assert first.status == 0, first.err
    assert first.sums == {"stored": 60, "dead_letter(invalid_json)": 1}
    found = await replay.account(content)
    assert_sums(found, records=61)
    assert found.findings == 10
    asked = guard.stats.conversations
    again = await replay(file)
    assert (again.status, again.out) == (0, first.out)
    assert guard.stats.conversations == asked, "nothing is judged twice"
    assert await replay.account(content) == found


async def test_an_edited_file_is_another_log_of_the_same_events(replay: Replay) -> None:
    lines = many(10)
    await replay(replay.file(b"\n".join(lines)))
    content = b"\n".join([*lines, encoded(10)])
    ran = await replay(replay.file(content))
    assert ran.sums == {"stored": 1, "duplicate(seen)": 10}


async def test_standard_input(replay: Replay) -> None:
    content = b"\n".join(many(25))
    ran = await replay("-", stdin=content)
    assert (ran.status, ran.sums) == (0, {"stored": 25}), ran.err
    ran = await replay(replay.file(content))
    assert (ran.status, ran.sums) == (0, {"stored": 25}), "the same bytes are the same log"
    assert_sums(await replay.account(content), records=25)
    assert not list(Path(replay.folder).glob("sentinel-replay-*"))


@pytest.mark.parametrize(
    ("content", "records", "holes", "sums"),
    [
        pytest.param(b"", 0, 0, {}, id="empty"),
        pytest.param(encoded(1), 1, 0, {"stored": 1}, id="no newline at the end"),
        pytest.param(encoded(1) + b"\r\n", 1, 0, {"stored": 1}, id="carriage return"),
        pytest.param(
            b"\n\n" + encoded(1) + b"\n \t\n" + encoded(2) + b"\n", 2, 3, {"stored": 2}, id="empty lines"
        ),
        pytest.param(
            encoded(1) + b"\n\n\n", 2, 1, {"stored": 1, "ignored(tombstone)": 1}, id="empty lines at the end"
        ),
        pytest.param(b"\n", 1, 0, {"ignored(tombstone)": 1}, id="only an empty line"),
        pytest.param(
            b"\xff\xfe\x00\n" + encoded(1, response="x" * 500_000), 2, 0, None, id="no text, and a long line"
        ),
    ],
)
async def test_shapes_of_files(
    replay: Replay, content: bytes, records: int, holes: int, sums: dict[str, int] | None
) -> None:
    ran = await replay(replay.file(content))
    assert ran.status == 0, ran.err
    found = await replay.account(content)
    assert_sums(found, records=records)
    assert found.holes == holes
    if sums is None:
        assert found.outcomes["stored"] == 1
        assert found.dead_letters == 1
    else:
        assert ran.sums == sums == found.outcomes


async def test_killed_in_the_middle_and_given_again(replay: Replay, guard: ScriptedGuard) -> None:
    content = b"\n".join(many(600, unsafe_every=7))
    file = replay.file(content)
    replay.settings["consumer.in_flight"] = "32"
    guard.set_faults(latency_low=0.2, latency_high=0.4)
    for target in (30, 200):
        async with replay.process(file) as process:

            async def far(least: int = target) -> bool:
                return await replay.passed() >= least

            await wait_until(far, timeout=60)
            assert process.returncode is None, "it was to be killed in the middle"
            process.kill()
            assert await process.wait() == -signal.SIGKILL
    assert 200 <= await replay.passed() < 600
    guard.clear_faults()
    ran = await replay(file)
    assert (ran.status, ran.sums) == (0, {"stored": 600}), ran.err
    found = await replay.account(content)
    assert_sums(found, records=600)
    assert found.findings == 86


async def test_interrupted_it_says_how_to_go_on(replay: Replay, guard: ScriptedGuard) -> None:
    content = b"\n".join(many(600))
    file = replay.file(content)
    replay.settings["consumer.in_flight"] = "32"
    guard.set_faults(latency_low=0.2, latency_high=0.4)
    async with replay.process(file) as process:

        async def some() -> bool:
            return await replay.passed() > 0

        await wait_until(some, timeout=60)
        process.send_signal(signal.SIGINT)
        ran = await replay.end(process)
    assert ran.status == 2
    assert "give the same file again" in ran.err
    assert ran.out == "", "sums of a part must not look like those of the file"
    assert_sums(await replay.account(content), records=await replay.passed())
    guard.clear_faults()
    ran = await replay(file)
    assert (ran.status, ran.sums) == (0, {"stored": 600}), ran.err


async def test_one_process_at_a_time_reads_a_file(replay: Replay, guard: ScriptedGuard) -> None:
    """Two of them would take the partition from each other for ever, a slow guard provided."""
    content = b"\n".join(many(50))
    file = replay.file(content)
    guard.set_faults(hang_rate=1.0)
    async with replay.process(file) as process:
        await wait_until(lambda: guard.stats.requests, timeout=60)
        ran = await replay("-", stdin=content)
        assert (ran.status, ran.out) == (2, "")
        assert "another process" in ran.err
        process.kill()
        await process.wait()
    guard.clear_faults()
    ran = await replay(file)
    assert (ran.status, ran.sums) == (0, {"stored": 50}), ran.err


async def test_a_flood_is_named_with_the_way_on(replay: Replay) -> None:
    content = b"\n".join([*many(5), *[b"{broken"] * 40, *many(5, start=5)])
    file = replay.file(content)
    replay.settings["consumer.bad_consecutive"] = "10"
    ran = await replay(file)
    assert ran.status == 2
    topic = "file:" + sha256(content).hexdigest()
    assert f"sentinel dlq resume {topic} 0 --allow" in ran.err
    assert "flood" in ran.err
    found = await replay.account(content)
    assert_sums(found, records=15)
    assert (await replay(file)).status == 2, "it stays halted"
    assert await replay.account(content) == found
    resume = await asyncio.create_subprocess_exec(
        SENTINEL,
        *("dlq", "resume", topic, "0", "--allow", "100"),
        env=environment(replay.settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await resume.communicate()
    assert resume.returncode == 0, said
    ran = await replay(file)
    assert (ran.status, ran.sums) == (0, {"stored": 10, "dead_letter(invalid_json)": 40}), ran.err
    assert_sums(await replay.account(content), records=50)


async def test_what_cannot_be_read_ends_with_2(replay: Replay, tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        ran = await replay(str(path))
        assert (ran.status, ran.out) == (2, "")
        assert str(path) in ran.err
        assert "Traceback" not in ran.err
    if os.geteuid() != 0:
        locked = tmp_path / "locked.jsonl"
        locked.write_bytes(b"{}")
        locked.chmod(0)
        ran = await replay(str(locked))
        assert ran.status == 2
        assert "Permission denied" in ran.err
    assert await replay.passed() == 0


async def test_an_unknown_format_is_refused(replay: Replay) -> None:
    ran = await replay("--format", "nonsense", replay.file(encoded(1)))
    assert ran.status == 2
    assert "native" in ran.err, "the message names the formats there are"


async def test_a_running_daemons_topics_and_ports_are_left_alone(replay: Replay, free_port: int) -> None:
    """A replay beside a daemon of the same settings: same port, same static member, no broker needed."""
    replay.settings |= {"metrics.port": str(free_port), "kafka.instance_id": "a", "kafka.start": "latest"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        ran = await replay(replay.file(encoded(1)))
    assert (ran.status, ran.sums) == (0, {"stored": 1}), ran.err
