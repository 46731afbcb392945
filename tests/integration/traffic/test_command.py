"""``sentinel traffic`` as its user runs it: without publishing, with failures, on a terminal, interrupted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import orjson
import pytest

from sentinel.embedded.scripted_model import ScriptedModel
from tests.support.brokers import Broker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

NOBODY = "127.0.0.1:1"
COUNTS = re.compile(r"(\d+) arrived, (\d+) answered, (\d+) failed, (\d+) found no place")


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(obeys="nothing of this kind") as server:
        yield server


async def start(
    model: ScriptedModel, *arguments: str, environ: Mapping[str, str] | None = None, stderr: int | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon.cli",
        "traffic",
        f"--model-url={model.url}",
        "--model=tiny",
        *arguments,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SENTINEL_KAFKA__BOOTSTRAP_SERVERS": NOBODY,
            **(environ or {}),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if stderr is None else stderr,
    )


def counted(out: bytes) -> tuple[int, int, int, int]:
    """Arrived, answered, failed, without a place."""
    found = COUNTS.match(out.decode())
    assert found is not None, out
    arrived, answered, failed, dropped = (int(number) for number in found.groups())
    assert arrived == answered + failed + dropped
    return arrived, answered, failed, dropped


async def test_without_publishing_kafka_is_not_needed(model: ScriptedModel, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    process = await start(model, "--no-publish", "--requests=15", "--rate=500", f"--log={log}")
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert counted(out) == (15, 15, 0, 0)
    assert out.decode().count("\n") == 1
    lines = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    assert sorted(line["prompt"] for line in lines) == sorted(
        str(request.messages[-1]["content"]) for request in model.seen
    )
    # With publishing the same call says that there is no Kafka, before it asks the model.
    process = await start(model, "--requests=15", "--rate=500")
    out, err = await process.communicate()
    assert process.returncode == 1
    assert "Kafka does not answer" in err.decode()
    assert len(model.seen) == 15


async def test_failures_are_told_by_their_reasons(model: ScriptedModel) -> None:
    model.set_faults(error_rate=0.5, error_status=503)
    process = await start(model, "--no-publish", "--requests=40", "--rate=500")
    out, err = await process.communicate()
    assert process.returncode == 0, err
    _, answered, failed, _ = counted(out)
    assert answered
    assert failed
    assert out.decode().splitlines()[1:] == [f"failed: HTTP 503 ({failed})"]

    model.set_faults(error_rate=0.0, garbage_rate=0.5, wrong_shape_rate=1.0)
    process = await start(model, "--no-publish", "--requests=40", "--rate=500")
    out, err = await process.communicate()
    assert process.returncode == 2
    assert counted(out)[1:] == (0, 40, 0)
    (line,) = out.decode().splitlines()[1:]
    reasons = {
        name: int(times) for name, times in re.findall(r"(\w[\w ]*) \((\d+)\)", line.partition(": ")[2])
    }
    assert set(reasons) == {"no JSON", "no chat completion"}
    assert sum(reasons.values()) == 40
    assert "nothing was answered" in err.decode()


async def test_progress_is_shown_on_a_terminal_only(model: ScriptedModel) -> None:
    model.set_faults(latency_low=0.5, latency_high=0.5)
    ours, theirs = os.openpty()
    try:
        environ = {"TERM": "xterm", "COLUMNS": "160"}
        arguments = ("--no-publish", "--requests=30", "--rate=30", "--max-in-flight=10")
        process = await start(model, *arguments, environ=environ, stderr=theirs)
        os.close(theirs)
        # What a terminal gets must be read, or its writer waits.
        reading = asyncio.create_task(asyncio.to_thread(drained, ours))
        out, _ = await process.communicate()
        shown = await reading
    finally:
        os.close(ours)
    assert process.returncode == 0, shown
    counted(out)
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode(errors="replace")
    assert re.search(r"\d+ answered", text)
    assert re.search(r"\d+ under way, 0 failed, \d+ found no place", text)
    assert re.search(r"\d:\d\d:\d\d", text)
    process = await start(model, "--no-publish", "--requests=3", "--rate=100")
    _, err = await process.communicate()
    assert err == b""


def drained(terminal: int) -> bytes:
    """Everything that is written to a terminal until its last writer closes it."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # EIO: nobody has its other side any more
            return shown
        if not piece:
            return shown
        shown += piece


async def test_one_interruption_ends_it_with_the_counts(
    model: ScriptedModel, embedded_broker: Broker
) -> None:
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    kafka = {"SENTINEL_KAFKA__BOOTSTRAP_SERVERS": embedded_broker.bootstrap, "SENTINEL_KAFKA__TOPICS": topic}
    model.set_faults(latency_low=0.3, latency_high=0.3)
    process = await start(model, "--rate=40", environ=kafka)
    await wait_until(lambda: len(model.seen) >= 10, 60)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
    _, answered, failed, _ = counted(out)
    # Those under way came to their end, and each answer is an event.
    assert (answered, failed) == (model.stats.requests, 0)
    ends = await asyncio.to_thread(embedded_broker.client.end_offsets, topic, 1)
    assert ends == {0: answered}


async def test_a_second_interruption_waits_for_nobody(model: ScriptedModel) -> None:
    process = await start(model, "--no-publish", "--rate=200", "--max-in-flight=5")
    await wait_until(lambda: len(model.seen) >= 5, 60)
    model.set_faults(hang_rate=1.0)
    await wait_until(lambda: model.stats.in_flight == 5, 60)
    process.send_signal(signal.SIGINT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.5)
    process.send_signal(signal.SIGINT)
    # Less than the half minute that a request may take.
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
    failed = counted(out)[2]
    assert 0 < failed <= 5
    assert out.decode().splitlines()[1:] == [f"failed: interrupted ({failed})"]
