"""The whole path, measured: `python -m benchmarks.path --json FILE`.

Cases, each on a fresh topic and table, in turns so that a busy minute does not hit only one of them:

`all_tables`        `sentinel run` with its defaults: consume, decode, guard, all tables, commit. The guard is a
                    scripted server in a process of its own, which answers at once; its cost is not counted.
`slow_guard`        the same with answers after 50 to 500 ms, uniformly drawn. What can be had is the number of
                    events in flight divided by the mean latency; `share_of_ceiling` is how much of it was.
`one_table`         the product's parts in the profile of the peers: no guard, one table (`path_onetable.py`).
`bare`              the limit: consume, parse, store in one table, commit, with nothing between the libraries.
`quix`, `faststream`, `faust`
                    the peers as their documentation shows them, each in an environment of its own; `*_tuned`
                    are the same with parts of the framework gone round (`benchmarks/peers`).

`program_cpu` is the processor time of the daemon or program, `postgres_cpu` that of all PostgreSQL processes.
`times_best_peer` compares `one_table` with the best documented peer: its events/s over theirs, and their
processor time over its own.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks import environments
from benchmarks.harness import Sample, results
from benchmarks.path_daemon import IN_FLIGHT, PARTITIONS, run_once, run_slow
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.__main__ import Plan as PeerPlan
from benchmarks.peers.__main__ import run_once as run_peer
from benchmarks.report import ROOT, Report, Result, make_report, print_table, summarize, write_json
from benchmarks.stack import Stack, add_stack_options, open_stack
from sentinel.store.migrate import migrate

OWN: Final = ("all_tables", "slow_guard", "one_table")
CASES: Final = (*OWN, *(peer.name for peer in PEERS))
DOCUMENTED: Final = ("quix", "faststream", "faust")
"""What `one_table` is compared with; the tuned variants are listed beside them."""

LATENCY: Final = (0.05, 0.5)
"""Seconds that the slow guard takes, from and to."""

LIBRARIES: Final = ("sentinel-loop", "aiokafka", "aiohttp", "asyncpg", "msgspec", "orjson", "uvloop")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to run; `slow_seconds` is the length of the slow guard's clock."""

    cases: Sequence[str]
    events: int
    warmup: int
    repetitions: int
    slow_seconds: float


async def run_case(
    case: str, stack: Stack, folder: Path, plan: Plan, pythons: Mapping[str, Path], number: int
) -> Sample:
    """One repetition of one case."""
    match case:
        case "all_tables":
            return await run_once(stack, folder, events=plan.events, warmup=plan.warmup, seed=number)
        case "slow_guard":
            low, high = LATENCY
            return await run_slow(stack, folder, low=low, high=high, seconds=plan.slow_seconds, seed=number)
    peers = PeerPlan(plan.events, plan.warmup, PARTITIONS, plan.repetitions)
    if case == "one_table":
        command = [sys.executable, "-m", "benchmarks.path_onetable"]
        return await run_peer(case, command, stack, folder, peers, number, cwd=ROOT)
    command = [str(pythons[case]), str(_peer(case).program)]
    return await run_peer(case, command, stack, folder, peers, number)


async def run(
    options: argparse.Namespace, plan: Plan, pythons: Mapping[str, Path]
) -> dict[str, list[Sample]]:
    """All cases, over and over."""
    samples: dict[str, list[Sample]] = {case: [] for case in plan.cases}
    async with open_stack(options) as stack:
        await migrate(stack.postgres.url)
        with tempfile.TemporaryDirectory(prefix="sentinel-bench-") as folder:
            for number in range(plan.repetitions):
                for case in plan.cases:
                    sample = await run_case(case, stack, Path(folder), plan, pythons, number)
                    print(
                        f"{case} {number + 1}/{plan.repetitions}: {sample.events_per_second:,.0f} events/s, "
                        f"{sample.program_us_per_event:.1f} + {sample.postgres_us_per_event:.1f} us/event",
                        flush=True,
                    )
                    samples[case].append(sample)
    return samples


def figures(samples: Mapping[str, Sequence[Sample]]) -> list[Result]:
    """Three figures a case, the slow guard's share of what is possible, and the comparison with the peers."""
    made = [result for case, measured in samples.items() for result in results(case, measured)]
    if slow := samples.get("slow_guard"):
        ceiling = IN_FLIGHT / statistics.mean(LATENCY)
        shares = [sample.events_per_second / ceiling for sample in slow]
        made.append(summarize("slow_guard", "share_of_ceiling", "1", shares))
    peers = {name: samples[name] for name in DOCUMENTED if samples.get(name)}
    if own := samples.get("one_table"):
        if peers:
            made += compare(own, peers)
    return made


def compare(own: Sequence[Sample], peers: Mapping[str, Sequence[Sample]]) -> list[Result]:
    """`own` over the best of the peers, repetition by repetition, in throughput and in processor time."""
    fastest = max(peers, key=lambda name: statistics.median(s.events_per_second for s in peers[name]))
    cheapest = min(peers, key=lambda name: statistics.median(s.program_us_per_event for s in peers[name]))
    rates = [
        mine.events_per_second / theirs.events_per_second
        for mine, theirs in zip(own, peers[fastest], strict=True)
    ]
    costs = [
        theirs.program_us_per_event / mine.program_us_per_event
        for mine, theirs in zip(own, peers[cheapest], strict=True)
    ]
    return [
        summarize("one_table", f"throughput_times_best_peer ({fastest})", "1", rates),
        summarize("one_table", f"program_cpu_times_best_peer ({cheapest})", "1", costs),
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.path",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--events", type=int, default=60_000, help="events per repetition (%(default)s)")
    parser.add_argument("--warmup", type=int, default=4_000, help="events before its clock (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="repetitions of each case (%(default)s)")
    parser.add_argument(
        "--slow-seconds", type=float, default=15.0, help="the slow guard's clock (%(default)s)"
    )
    parser.add_argument("--only", default="", metavar="NAMES", help=f"comma-separated: {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="one short repetition of each: does it run?")
    add_stack_options(parser)
    options = parser.parse_args(arguments)
    wanted = [name for name in options.only.split(",") if name]
    if unknown := set(wanted) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    options.cases = tuple(case for case in CASES if not wanted or case in wanted)
    if options.quick:
        options.events, options.warmup, options.repetitions, options.slow_seconds = 10_000, 1_000, 1, 4.0
    return options


def main() -> None:
    """Measure, print a table, and write the JSON object where asked."""
    options = parse()
    plan = Plan(options.cases, options.events, options.warmup, options.repetitions, options.slow_seconds)
    peers = [peer for peer in PEERS if peer.name in plan.cases]
    pythons = {peer.name: environments.prepare(peer.environment, peer.lock) for peer in peers}
    samples = asyncio.run(run(options, plan, pythons))
    report = make_path_report(samples, peers, pythons)
    print_table(report)
    if options.json:
        write_json(report, options.json)


def make_path_report(
    samples: Mapping[str, Sequence[Sample]], peers: Sequence[Peer], pythons: Mapping[str, Path]
) -> Report:
    """The report, with the versions of everything that ran."""
    versions = {"sentinel": {name: version(name) for name in LIBRARIES}}
    versions |= {peer.name: environments.versions(pythons[peer.name], peer.distributions) for peer in peers}
    return make_report("path", figures(samples), versions)


def _peer(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


if __name__ == "__main__":
    main()
