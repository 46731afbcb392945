"""One repetition of a measurement, with files in the place of topic and table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness import BenchmarkError, Sample, measure, reach, results
from benchmarks.processes import Program, ProgramDiedError

# Copies `topic` to `table` line by line, burning 0.2 ms of processor time on each.
COPY = """
import sys, time
topic, table, copies = open(sys.argv[1]), open(sys.argv[2], 'a'), int(sys.argv[3])
while True:
    line = topic.readline()
    if not line:
        time.sleep(0.005)
        continue
    end = time.process_time() + 0.0002
    while time.process_time() < end: pass
    table.write(line * copies)
    table.flush()
"""
DIE = "import sys\nsys.exit('cannot join the group')"


class Files:
    """A topic and a table as files; counting is noted."""

    def __init__(self, folder: Path) -> None:
        self.topic, self.table = folder / "topic", folder / "table"
        self.topic.touch()
        self.table.touch()
        self.settled_at: list[int] = []

    async def produce(self, n: int) -> None:
        with self.topic.open("a") as topic:
            topic.writelines(f"event {number}\n" for number in range(n))

    async def count(self) -> int:
        return self.table.read_bytes().count(b"\n")

    async def settle(self) -> None:
        self.settled_at.append(await self.count())

    def cpu_seconds(self) -> float:
        return 0.0

    def program(self, code: str, copies: int = 1) -> Program:
        command = [sys.executable, "-c", code, str(self.topic), str(self.table), str(copies)]
        return Program("copy", command, self.topic.with_name("log"), grace=2)


async def test_a_repetition_counts_only_what_follows_the_warm_up(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with files.program(COPY) as program:
        sample = await measure(program, files, files.count, files.produce, events=2000, warmup=50, timeout=60)
        assert await files.count() == 2050
    assert sample.events == 2000
    # 0.2 ms of work per event, some more for the loop around it; the warm-up and the start would show.
    assert 195 <= sample.program_us_per_event <= 400
    assert sample.seconds >= 0.4
    assert sample.postgres_us_per_event == 0.0
    # The work was laid out while the program stood still: nothing of it was done before the clock started.
    assert files.settled_at == [50]


async def test_a_program_that_writes_events_twice_is_no_result(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with files.program(COPY, copies=3) as program:
        with pytest.raises(BenchmarkError, match=r"stored \d+ rows for 50 events"):
            await measure(program, files, files.count, files.produce, events=50, warmup=0, timeout=60)


async def test_a_program_that_dies_is_no_result(tmp_path: Path) -> None:
    files = Files(tmp_path)
    async with files.program(DIE) as program:
        with pytest.raises(ProgramDiedError, match="cannot join the group"):
            await measure(program, files, files.count, files.produce, events=50, warmup=5, timeout=60)


def never() -> None:
    """Nothing ever goes wrong."""


async def test_waiting_ends_at_the_deadline() -> None:
    async def stuck() -> int:
        return 7

    with pytest.raises(BenchmarkError, match="7 of 10 events after 0 s"):
        await reach(stuck, 10, timeout=0.1, check=never)


async def test_counting_is_rare_while_the_end_is_far() -> None:
    steps: Iterator[int] = iter([0, 1, 2, 3, 100_000])
    asked = 0

    async def slow() -> int:
        nonlocal asked
        asked += 1
        return next(steps)

    assert await reach(slow, 100_000, timeout=60, check=never) == 100_000
    assert asked == 5


def test_a_case_has_three_figures() -> None:
    samples = [Sample(1000, 0.1, 0.02, 0.01), Sample(1000, 0.2, 0.03, 0.005), Sample(1000, 0.4, 0.01, 0.02)]
    throughput, program, postgres = results("bare", samples)
    assert (throughput.metric, throughput.unit, throughput.value) == ("throughput", "events/s", 5000.0)
    assert (program.metric, program.unit) == ("program_cpu", "us/event")
    assert (program.value, program.low, program.high, program.n) == pytest.approx((20.0, 10.0, 30.0, 3))
    assert postgres.metric == "postgres_cpu"
    assert (postgres.value, postgres.low, postgres.high) == pytest.approx((10.0, 5.0, 20.0))
