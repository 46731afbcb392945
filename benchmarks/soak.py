"""Does the daemon stay as it is? `python -m benchmarks.soak --seconds 3600 --json FILE`.

Two cases on the real daemon, a real Kafka and PostgreSQL, and a guard process that answers after 5 to 50 ms:

`steady`    50 events a second (`--rate`), as long as `--seconds` says
`ceiling`   as many as the daemon takes: the topic always holds some thousand records that it has not read

Every few seconds (`--interval`) the daemon's resident memory, its lag (records produced and not passed), what it
holds unwritten, and the 95th percentile of event age since the last look are read. Reported are their greatest
values, the slope of memory, and what was lost: events produced without an outcome, or an outcome without rows.

`rss_slope` is the least-squares slope over the second half of the readings with its 95 % interval (value, low,
high; n readings), as if readings were independent; over hours an interval above zero means a leak, over a
minute it may be a cache that fills. Exit code 1 when an event was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import aiohttp
import orjson
import psutil
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness import BenchmarkError, reach
from benchmarks.path_daemon import PARTITIONS, Daemon, daemon, guard_process
from benchmarks.processes import tree
from benchmarks.report import Report, Result, make_report, print_table, summarize, write_json
from benchmarks.stack import Stack, add_stack_options, open_stack

LATENCY: Final = (0.005, 0.05)
AHEAD: Final = 20_000
"""Records that lie unread on the topic at the ceiling."""

START_TIMEOUT: Final = 60.0
CATCH_UP: Final = 120.0
PASSED: Final = "SELECT coalesce(sum(next_offset - first_offset), 0)::bigint FROM consumer_offsets"
ENDED: Final = "SELECT coalesce(sum(n), 0)::bigint FROM partition_outcomes"

Buckets = dict[float, float]
"""Upper bound to the number of values at or below it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how often it is looked at (seconds), and how fast; no rate means the ceiling."""

    case: str
    seconds: float
    interval: float
    rate: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look. ``age`` is a 95th percentile in seconds, None where nothing was stored since the last look."""

    at: float
    rss: int
    lag: int
    unwritten: int
    age: float | None


@dataclass(slots=True)
class Soaked:
    """What a case found."""

    plan: Plan
    readings: list[Reading] = field(default_factory=list)
    produced: int = 0
    ended: int = 0
    stored: int = 0
    age: float = 0.0
    """95th percentile over the whole case, seconds."""
    program_cpu: float = 0.0
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Events without an outcome; negative where one had two."""
        return self.produced - self.ended


class Feed:
    """Produces events, at a rate or up to a number ahead of the daemon."""

    def __init__(self, running: Daemon, bootstrap: str) -> None:
        self._running = running
        self._refused: list[str] = []
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 5, "log_level": 4}
        )
        self.produced = 0

    def send(self, events: int) -> None:
        """Produce so many events; refused ones raise at `finish`."""
        for event in self._running.load.events(events):
            partition = self.produced % PARTITIONS
            self._producer.produce(
                self._running.topic, event, partition=partition, on_delivery=self._delivered
            )
            self.produced += 1
        self._producer.poll(0)

    async def finish(self) -> None:
        """Wait until the broker has everything; `BenchmarkError` where it has not."""
        left = await asyncio.to_thread(self._producer.flush, 60)
        if left or self._refused:
            raise BenchmarkError(f"{left} events not sent, {len(self._refused)} refused: {self._refused[:1]}")

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self._refused.append(str(error))


async def soak(stack: Stack, folder: Path, plan: Plan) -> Soaked:
    """Run one case. Raises `BenchmarkError` when the daemon does not start or does not catch up."""
    found = Soaked(plan)
    low, high = LATENCY
    changes = {"logging": {"format": "json"}}
    async with (
        guard_process(folder, low, high) as guard_url,
        daemon(stack, folder, guard_url, changes=changes) as running,
        aiohttp.ClientSession() as client,
    ):
        url = f"http://127.0.0.1:{await _metrics_port(running)}/metrics"
        feed = Feed(running, stack.bootstrap)
        feed.send(10)
        await reach(lambda: _number(running, PASSED), 10, START_TIMEOUT, running.program.check)
        first = before = await _ages(client, url)
        clock = asyncio.get_running_loop().time
        began = looked = clock()
        cpu = running.program.cpu_seconds()
        while (now := clock()) - began < plan.seconds:
            running.program.check()
            feed.send(await _due(running, plan, feed.produced, now - began))
            if now - looked >= plan.interval:
                looked = now
                after = await _ages(client, url)
                found.readings.append(await _read(running, feed, now - began, _since(before, after)))
                before = after
            await asyncio.sleep(0.02)
        found.seconds = clock() - began
        found.program_cpu = running.program.cpu_seconds() - cpu
        await feed.finish()
        found.produced = feed.produced
        await reach(lambda: _number(running, PASSED), feed.produced, CATCH_UP, running.program.check)
        found.age = quantile(_since(first, await _ages(client, url)), 0.95) or 0.0
        found.ended = await _number(running, ENDED)
        found.stored = await running.expect_rows()
    return found


async def _due(running: Daemon, plan: Plan, produced: int, elapsed: float) -> int:
    """How many events to produce now."""
    if plan.rate is not None:
        return max(0, 10 + int(elapsed * plan.rate) - produced)
    ahead = produced - await _number(running, PASSED)
    return AHEAD - ahead if ahead < AHEAD // 2 else 0


async def _read(running: Daemon, feed: Feed, at: float, ages: Buckets) -> Reading:
    passed = await _number(running, PASSED)
    written = await _number(running, "SELECT count(*) FROM event_keys")
    rss = sum(process.memory_info().rss for process in _processes(running))
    return Reading(at, rss, feed.produced - passed, feed.produced - written, quantile(ages, 0.95))


def _processes(running: Daemon) -> Sequence[psutil.Process]:
    return list(tree(running.program.pid))


async def _number(running: Daemon, query: str) -> int:
    return int(await running.ledger.connection.fetchval(query))


async def _metrics_port(running: Daemon) -> int:
    """The port that the daemon chose, from its own log."""
    for _ in range(600):
        running.program.check()
        for line in running.program.log.read_bytes().splitlines():
            if b'"metrics_port"' in line and line.endswith(b"}"):
                return int(orjson.loads(line)["metrics_port"])
        await asyncio.sleep(0.1)
    raise BenchmarkError(f"the daemon did not start: {running.program.tail()}")


async def _ages(client: aiohttp.ClientSession, url: str) -> Buckets:
    async with client.get(url) as answer:
        text = await answer.text()
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "sentinel_event_age_seconds_bucket"
    }


def _since(before: Buckets, after: Buckets) -> Buckets:
    return {bound: count - before.get(bound, 0.0) for bound, count in after.items()}


def quantile(buckets: Buckets, share: float) -> float | None:
    """The quantile of a histogram, linear inside its bucket; None for no values.

    A value above the last finite bound counts as that bound, as Prometheus has it.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    wanted = share * total
    for lower, upper in pairwise([0.0, *bounds]):
        below = buckets.get(lower, 0.0) if lower else 0.0
        if buckets[upper] >= wanted:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (wanted - below) / (buckets[upper] - below)
    return None


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Least-squares slope of y over x, and its 95 % interval (normal approximation).

    Raises `ValueError` for fewer than four points.
    """
    if len(points) < 4:
        raise ValueError("a slope needs four readings")
    xs, ys = zip(*points, strict=True)
    line = statistics.linear_regression(xs, ys)
    mean = statistics.mean(xs)
    spread = sum((x - mean) ** 2 for x in xs)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    half = 1.96 * (rest / (len(points) - 2) / spread) ** 0.5
    return line.slope, line.slope - half, line.slope + half


def rss_slope(found: Soaked) -> Result:
    """KiB a second over the second half: what a start fills is filled by then."""
    half = found.readings[len(found.readings) // 2 :]
    value, low, high = slope([(reading.at, reading.rss / 1024) for reading in half])
    return Result(
        case=found.plan.case, metric="rss_slope", unit="KiB/s", value=value, low=low, high=high, n=len(half)
    )


def figures(found: Soaked) -> list[Result]:
    """The rows of the report: each a median with the extremes of all readings, but for sums and the slope."""
    case, readings = found.plan.case, found.readings
    ages = [reading.age for reading in readings if reading.age is not None]
    made = [
        summarize(case, "throughput", "events/s", [found.produced / found.seconds]),
        summarize(case, "program_cpu", "us/event", [found.program_cpu / found.produced * 1e6]),
        summarize(case, "rss", "MiB", [reading.rss / 2**20 for reading in readings]),
        rss_slope(found),
        summarize(case, "lag", "events", [float(reading.lag) for reading in readings]),
        summarize(case, "unwritten", "events", [float(reading.unwritten) for reading in readings]),
        summarize(case, "event_age_p95", "s", [found.age]),
        summarize(case, "events", "1", [float(found.produced)]),
        summarize(case, "lost", "1", [float(found.lost)]),
    ]
    if ages:
        made.insert(7, summarize(case, "event_age_p95_of_interval", "s", ages))
    return made


async def run(options: argparse.Namespace) -> list[Soaked]:
    """Both cases, or the one that was asked for."""
    plans = [
        Plan("steady", options.seconds, options.interval, options.rate),
        Plan("ceiling", options.seconds, options.interval, None),
    ]
    async with open_stack(options) as stack:
        with tempfile.TemporaryDirectory(prefix="sentinel-soak-") as folder:
            chosen = [plan for plan in plans if options.only in ("", plan.case)]
            return [await soak(stack, Path(folder), plan) for plan in chosen]


def make_soak_report(found: Sequence[Soaked]) -> Report:
    """The report of all cases."""
    return make_report("soak", [result for case in found for result in figures(case)], {})


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of each case (%(default)s)")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between readings (%(default)s)")
    parser.add_argument("--rate", type=int, default=50, help="events a second, steady (%(default)s)")
    parser.add_argument("--only", default="", choices=("", "steady", "ceiling"), help="one case")
    add_stack_options(parser)
    options = parser.parse_args(arguments)
    if options.seconds < 8 * options.interval:
        parser.error("--seconds must be at least eight times --interval: a slope needs readings")
    return options


def main() -> int:
    """Soak, print a table, and write the JSON object where asked."""
    options = parse()
    found = asyncio.run(run(options))
    report = make_soak_report(found)
    print_table(report)
    if options.json:
        write_json(report, options.json)
    for case in found:
        if case.lost:
            print(f"WRONG: {case.plan.case} lost {case.lost} events", file=sys.stderr)
    return 1 if any(case.lost for case in found) else 0


if __name__ == "__main__":
    sys.exit(main())
