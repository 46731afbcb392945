"""The bare limit and the peers, in the one-table profile: `python -m benchmarks.peers --json FILE`."""

import argparse
import asyncio
import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import environments
from benchmarks.harness import BenchmarkError, Sample, measure, results
from benchmarks.load import Load
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.programs.onetable import DDL
from benchmarks.processes import Program
from benchmarks.report import make_report, print_table, write_json
from benchmarks.stack import Stack, add_stack_options, open_stack

START_TIMEOUT = 60.0
SLOWEST = 500.0
"""Events a second below which a program counts as stuck."""

COMMIT_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to run: events per repetition, events before its clock starts, partitions, repetitions."""

    events: int
    warmup: int
    partitions: int
    repetitions: int


async def run_once(
    called: str,
    command: Sequence[str],
    stack: Stack,
    folder: Path,
    plan: Plan,
    number: int,
    cwd: Path | None = None,
) -> Sample:
    """One repetition of one program on a topic, a group and a table of its own.

    `command` gets the settings as its last argument and runs in `cwd` (default: `folder`). Raises
    `BenchmarkError` when rows are missing or the group does not commit the end of the log.
    """
    # Random: a run that was broken off leaves a topic and a table on servers that go on running.
    name = f"bench_{called}_{secrets.token_hex(4)}"
    load = stack.load(seed=number)
    await load.create_topic(name, plan.partitions)
    database = urlsplit(stack.dsn)
    settings = {
        "bootstrap": stack.bootstrap,
        "topic": name,
        "group": name,
        "host": database.hostname,
        "port": database.port,
        "user": database.username,
        "password": database.password,
        "database": database.path.lstrip("/"),
        "table": name,
    }
    whole = [*command, json.dumps(settings)]
    async with stack.ledger() as ledger:
        await ledger.connection.execute(DDL.format(table=name))
        async with Program(called, whole, folder / f"{name}.log", cwd=cwd or folder) as program:
            sample = await measure(
                program,
                ledger,
                ledger.counter(name),
                lambda n: load.produce(name, n),
                events=plan.events,
                warmup=plan.warmup,
                timeout=START_TIMEOUT + plan.events / SLOWEST,
            )
            await expect_commit(load, name)
        await ledger.connection.execute(f"DROP TABLE {name}")
    await load.delete_topic(name)
    return sample


async def expect_commit(load: Load, name: str) -> None:
    """Wait until the group has committed the whole topic; `BenchmarkError` when it does not."""
    deadline = asyncio.get_running_loop().time() + COMMIT_TIMEOUT
    while True:
        committed, written = await load.committed(name, name)
        if committed == written:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise BenchmarkError(f"{name} committed {committed} of {written} records")
        await asyncio.sleep(0.2)


async def compare(
    peers: Sequence[Peer], pythons: Mapping[str, Path], stack: Stack, plan: Plan
) -> dict[str, list[Sample]]:
    """Run all peers in turn, over and over, so that a busy minute of the machine does not hit only one."""
    samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    with tempfile.TemporaryDirectory(prefix="sentinel-bench-") as folder:
        for number in range(plan.repetitions):
            for peer in peers:
                command = [str(pythons[peer.name]), str(peer.program)]
                sample = await run_once(peer.name, command, stack, Path(folder), plan, number)
                print(
                    f"{peer.name} {number + 1}/{plan.repetitions}: {sample.events_per_second:,.0f} events/s, "
                    f"{sample.program_us_per_event:.1f} + {sample.postgres_us_per_event:.1f} us/event",
                    flush=True,
                )
                samples[peer.name].append(sample)
    return samples


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    parser.add_argument("--events", type=int, default=50_000, help="events per repetition (%(default)s)")
    parser.add_argument("--warmup", type=int, default=2_000, help="events before its clock (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="repetitions of each peer (%(default)s)")
    parser.add_argument("--partitions", type=int, default=4, help="partitions of the topic (%(default)s)")
    parser.add_argument("--only", default="", metavar="NAMES", help="comma-separated programs to run")
    parser.add_argument("--lock", action="store_true", help="only resolve the requirements anew")
    add_stack_options(parser)
    options = parser.parse_args(arguments)
    wanted = [name for name in options.only.split(",") if name]
    unknown = set(wanted) - {peer.name for peer in PEERS}
    if unknown:
        known = ", ".join(peer.name for peer in PEERS)
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; known: {known}")
    options.peers = tuple(peer for peer in PEERS if not wanted or peer.name in wanted)
    return options


def main() -> None:
    """Run the comparison and print it."""
    options = parse()
    if options.lock:
        for requirements, lock in sorted({(peer.requirements, peer.lock) for peer in options.peers}):
            environments.write_lock(requirements, lock)
        return
    pythons = {peer.name: environments.prepare(peer.environment, peer.lock) for peer in options.peers}

    plan = Plan(options.events, options.warmup, options.partitions, options.repetitions)

    async def run() -> dict[str, list[Sample]]:
        async with open_stack(options) as stack:
            return await compare(options.peers, pythons, stack, plan)

    samples = asyncio.run(run())
    report = make_report(
        "peers",
        [result for name, measured in samples.items() for result in results(name, measured)],
        {peer.name: environments.versions(pythons[peer.name], peer.distributions) for peer in options.peers},
    )
    if options.json:
        write_json(report, options.json)
    print_table(report)


if __name__ == "__main__":
    main()
