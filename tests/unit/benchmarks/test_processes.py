"""Processor time and the life of programs under measurement, on real processes."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.processes import Program, ProgramDiedError, cpu_seconds
from tests.support.waiting import wait_until

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
WAIT = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
# A child that burns and is reaped, one that burns and lives on; then the parent says so.
FAMILY = f"""
import subprocess, sys, time
subprocess.run([sys.executable, '-c', {BURN.format(seconds=0.3)!r}], check=True)
living = subprocess.Popen([sys.executable, '-c', {BURN.format(seconds=0.3)!r} + "print('ready', flush=True); time.sleep(60)"])
time.sleep(60)
"""  # noqa: E501
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT


def python(name: str, code: str, folder: Path, grace: float = 5.0) -> Program:
    return Program(name, [sys.executable, "-c", code], folder / f"{name}.log", grace=grace)


async def ready(program: Program) -> None:
    def said() -> bool:
        program.check()
        return "ready" in program.tail()

    await wait_until(said, timeout=120)


async def test_a_busy_program_costs_what_it_used_and_a_sleeping_one_nothing(tmp_path: Path) -> None:
    busy_code = WAIT.replace("time.sleep(60)", "\n" + BURN.format(seconds=30).replace("import time\n", ""))
    async with python("busy", busy_code, tmp_path) as busy, python("idle", WAIT, tmp_path) as idle:
        await ready(busy)
        await ready(idle)
        # Its own clock, since a machine with other work gives it less than a core.
        own = psutil.Process(busy.pid)

        def clock() -> float:
            return float(sum(own.cpu_times()[:2]))

        early = clock()
        before = busy.cpu_seconds(), idle.cpu_seconds()
        late = clock()
        await wait_until(lambda: clock() >= late + 0.5, timeout=60)
        least = clock() - late
        used = busy.cpu_seconds() - before[0]
        assert least - 0.05 <= used <= clock() - early + 0.05
        assert idle.cpu_seconds() - before[1] <= 0.02


async def test_reaped_and_living_children_both_count(tmp_path: Path) -> None:
    async with python("family", FAMILY, tmp_path) as family:
        await ready(family)
        assert 0.58 <= family.cpu_seconds() <= 3.0
        (living,) = psutil.Process(family.pid).children()
        assert 0.28 <= cpu_seconds(family.pid, frozenset({living.pid})) < family.cpu_seconds() - 0.25


def test_a_process_that_is_gone_costs_nothing() -> None:
    with psutil.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    assert cpu_seconds(process.pid) == 0.0


async def test_frozen_programs_use_no_time_until_thawed(tmp_path: Path) -> None:
    async with python("busy", "print('ready', flush=True)\n" + BURN.format(seconds=30), tmp_path) as busy:
        await ready(busy)
        busy.freeze()
        own = psutil.Process(busy.pid)
        await wait_until(lambda: own.status() == psutil.STATUS_STOPPED)
        frozen = busy.cpu_seconds()
        await asyncio.sleep(0.2)
        assert busy.cpu_seconds() == frozen
        busy.thaw()
        await wait_until(lambda: busy.cpu_seconds() > frozen)


async def test_a_program_that_ended_is_reported_with_its_last_words(tmp_path: Path) -> None:
    async with python("short", "import sys\nsys.exit('no such topic')", tmp_path) as short:
        own = psutil.Process(short.pid)
        await wait_until(lambda: own.status() == psutil.STATUS_ZOMBIE, timeout=120)
        with pytest.raises(ProgramDiedError, match=r"short ended with 1:\nno such topic"):
            short.check()


async def test_leaving_ends_the_whole_tree_even_frozen(tmp_path: Path) -> None:
    async with python("family", FAMILY, tmp_path) as family:
        await ready(family)
        (living,) = psutil.Process(family.pid).children()
        family.freeze()
    _, alive = psutil.wait_procs([living], timeout=60)
    assert alive == []


async def test_a_program_deaf_to_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with python("stubborn", STUBBORN, tmp_path, grace=0.3) as stubborn:
        await ready(stubborn)
        process = psutil.Process(stubborn.pid)
        began = time.monotonic()
    assert not process.is_running()
    assert 0.3 <= time.monotonic() - began < 60


def test_an_unstarted_program_has_no_pid(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = python("never", "pass", tmp_path).pid
