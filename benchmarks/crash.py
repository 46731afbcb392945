"""Kill the daemon again and again while events flow, then account for every one of them.

    python -m benchmarks.crash --kills 50                     a static group member, as the systemd unit runs it
    python -m benchmarks.crash --kills 5 --dynamic            no instance id: the group waits for its session
    python -m benchmarks.crash --kills 500 --json FILE

The real `sentinel run` consumes from a real Kafka, asks a guard in a process of its own and writes to a real
PostgreSQL; a served model, a process too, is asked again for what was unsafe. The daemon is killed (SIGKILL) after
a random time, often while it starts, and started again. At the end every event must have exactly one outcome,
every kept event exactly one row in each table, the sums must match the offsets, and every finding must be
announced and have exactly one pair. Exit code 1 and a list of what is wrong otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import asyncpg
import orjson
import yaml
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.crash_findings import (
    MODEL_COMMAND,
    account_findings,
    findings_topic,
    settings_of_findings,
    unfinished,
)
from benchmarks.processes import Program
from benchmarks.report import Report, make_report, print_table, summarize, write_json
from benchmarks.stack import Stack, add_stack_options, open_stack
from sentinel.store.migrate import migrate

UNSAFE_EVERY = 20
BAD_EVERY = 97
DUPLICATE_EVERY = 53
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to the daemon. Times in seconds."""

    kills: int
    rate: int
    """Records a second."""
    shortest: float
    longest: float
    static: bool
    seed: int
    mid_work: int = 0
    """Kills in the middle of work that are wanted: up to ``kills`` more are made for them, after longer lives."""
    session_timeout_ms: int = 9000
    patience: float = 120.0
    """How long the last start may go without any progress before all is caught up."""


@dataclass(slots=True)
class Outcome:
    """What was produced and what the store says of it."""

    kills: int = 0
    records: int = 0
    unique: int = 0
    bad: int = 0
    unsafe: int = 0
    kills_mid_work: int = 0
    """Kills that left rows which no offset had passed yet."""
    outcomes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Traffic:
    """Produces records at a rate from a thread of librdkafka's; counts only what the broker acknowledged."""

    def __init__(self, bootstrap: str, topic: str, plan: Plan) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 4,
            }
        )
        self._topic = topic
        self._plan = plan
        self._last = b""
        self.found = Outcome()

    async def run(self, stop: asyncio.Event) -> None:
        """Produce until ``stop``, then wait for every acknowledgement."""
        began, sent = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - began) * self._plan.rate)
            for _ in range(due - sent):
                self._send(sent)
                sent += 1
            self._producer.poll(0)
            await asyncio.sleep(0.02)
        left = await asyncio.to_thread(self._producer.flush, 60)
        if left:
            self.found.problems.append(f"{left} records were never acknowledged")

    def _send(self, number: int) -> None:
        found = self.found
        if number % BAD_EVERY == BAD_EVERY - 1:
            value = b"{this is not json"
            found.bad += 1
        elif number % DUPLICATE_EVERY == DUPLICATE_EVERY - 1 and self._last:
            value = self._last
        else:
            unsafe = number % UNSAFE_EVERY == 0
            found.unsafe += unsafe
            found.unique += 1
            value = self._last = _event(number, unsafe=unsafe)
        found.records += 1
        self._producer.produce(self._topic, value, partition=number % PARTITIONS, on_delivery=self._delivered)

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self.found.problems.append(f"a record was refused: {error}")


def _event(number: int, *, unsafe: bool) -> bytes:
    answer = "The answer is UNSAFE-MARK." if unsafe else f"The answer to {number} is friendly."
    return orjson.dumps(
        {
            "id": uuid4().hex,
            "source": "crash",
            "model": "model-a",
            "messages": [{"role": "user", "content": f"Question {number}?"}],
            "response": answer,
        }
    )


async def crash(stack: Stack, plan: Plan, *, quiet: bool = False) -> Outcome:
    """Do what ``plan`` says on a fresh topic and database of ``stack``."""
    draw = random.Random(plan.seed)
    began = time.monotonic()
    topic = f"crash-{uuid4().hex[:8]}"
    for name in (topic, findings_topic(topic)):
        await stack.load().create_topic(name, PARTITIONS)
    await migrate(stack.postgres.url)
    with tempfile.TemporaryDirectory(prefix="sentinel-crash-") as name:
        folder = Path(name)
        guard = Program("guard", _guard_command(), folder / "guard.log")
        model = Program("model", MODEL_COMMAND, folder / "model.log")
        async with guard, model:
            config = _config(folder, stack, topic, await _url(guard), await _url(model), plan)
            traffic = Traffic(stack.bootstrap, topic, plan)
            stop = asyncio.Event()
            producing = asyncio.create_task(traffic.run(stop))
            await _kill_often(stack, plan, config, draw, traffic.found, folder, quiet=quiet)
            stop.set()
            await producing
            await _catch_up(stack, plan, config, topic, traffic.found, folder)
    found = traffic.found
    await _account(stack, topic, found)
    found.seconds = time.monotonic() - began
    return found


def _guard_command() -> list[str]:
    return [
        sys.executable,
        "-m",
        "sentinel.embedded.scripted_guard",
        "--port",
        "0",
        "--latency",
        # Wide enough that answers overtake each other within a partition: rows lie behind the offset at a kill.
        "0.002:0.2",
    ]


async def _url(server: Program) -> str:
    for _ in range(200):
        server.check()
        lines = server.log.read_text().split()
        if lines:
            return lines[0]
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the {server.name} did not start: {server.tail()}")


def _config(folder: Path, stack: Stack, topic: str, guard_url: str, model_url: str, plan: Plan) -> Path:
    kafka: dict[str, object] = {
        "bootstrap_servers": [stack.bootstrap],
        "topics": [topic],
        "group_id": topic,
        "findings_topic": findings_topic(topic),
        "session_timeout_ms": plan.session_timeout_ms,
        "heartbeat_interval_ms": 1000,
        "rebalance_timeout_ms": 10000,
    }
    if plan.static:
        kafka["instance_id"] = "crash-0"
    settings = {
        "kafka": kafka,
        "database": {"url": stack.postgres.url},
        "guard": {"base_url": guard_url, "name": "scripted-guard"},
        "metrics": {"port": 0},
        # Bad records are part of the mix and spread out; a flood is another test's business.
        "consumer": {"bad_ratio": 1.0, "bad_consecutive": 100_000},
        "logging": {"format": "json"},
        **settings_of_findings(model_url),
    }
    path = folder / "sentinel.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _daemon(config: Path, folder: Path, number: int) -> Program:
    command = [sys.executable, "-m", "daemon.cli", "--config", str(config), "run"]
    return Program("daemon", command, folder / f"daemon-{number}.log", grace=60)


async def _kill_often(
    stack: Stack, plan: Plan, config: Path, draw: random.Random, found: Outcome, folder: Path, *, quiet: bool
) -> None:
    columns = (TextColumn("kills"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        bar = progress.add_task("kills", total=plan.kills)
        while found.kills < plan.kills or (
            found.kills_mid_work < plan.mid_work and found.kills < 2 * plan.kills
        ):
            # On a slow machine the planned lives may all end before a daemon has begun its work.
            longest = plan.longest if found.kills < plan.kills else 5 * plan.longest
            async with _daemon(config, folder, found.kills) as daemon:
                await asyncio.sleep(draw.uniform(plan.shortest, longest))
                daemon.check()
                daemon.kill()
            found.kills += 1
            found.kills_mid_work += await _mid_work(stack)
            progress.advance(bar)


async def _mid_work(stack: Stack) -> bool:
    """Whether the kill left rows that no offset has passed yet."""
    conn = await asyncpg.connect(stack.dsn)
    try:
        written = await conn.fetchval("SELECT count(*) FROM event_keys")
        passed = await conn.fetchval(
            "SELECT coalesce(sum(n), 0) FROM partition_outcomes WHERE outcome IN ('stored', 'unscored')"
        )
    finally:
        await conn.close()
    return bool(written != passed)


async def _catch_up(stack: Stack, plan: Plan, config: Path, topic: str, found: Outcome, folder: Path) -> None:
    """Start a last time, wait until all is passed, asked again and announced, stop gracefully."""
    async with _daemon(config, folder, found.kills) as daemon:
        conn = await asyncpg.connect(stack.dsn)
        try:
            before, moved = (-1, -1), time.monotonic()
            while True:
                daemon.check()
                records = await conn.fetchval(
                    "SELECT coalesce(sum(records), 0) FROM consumer_offsets WHERE topic = $1", topic
                )
                now = (int(records), await unfinished(conn, topic))
                if now[0] >= found.records and not now[1]:
                    break
                # A limit on the whole would say how fast the machine is.
                if now != before:
                    before, moved = now, time.monotonic()
                elif time.monotonic() - moved > plan.patience:
                    found.problems.append(
                        f"{now[0]} of {found.records} records and {now[1]} findings left, nothing moves since"
                        f" {plan.patience} s: {daemon.tail(1500)}"
                    )
                    break
                await asyncio.sleep(0.2)
        finally:
            await conn.close()


async def _account(stack: Stack, topic: str, found: Outcome) -> None:
    conn = await asyncpg.connect(stack.dsn)
    try:
        rows = await conn.fetch(
            "SELECT outcome, reason, sum(n)::bigint AS n FROM partition_outcomes WHERE topic = $1 GROUP BY 1, 2",
            topic,
        )
        found.outcomes = {
            f"{r['outcome']}({r['reason']})" if r["reason"] else r["outcome"]: r["n"] for r in rows
        }
        progress = await conn.fetchrow(
            "SELECT sum(records) AS records, sum(holes + lost) AS holes,"
            " sum(next_offset - first_offset) AS advanced FROM consumer_offsets WHERE topic = $1",
            topic,
        )
        counts = {
            table: await conn.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608  # our own names
            for table in (
                "event_keys",
                "interactions",
                "interaction_texts",
                "findings",
                "dead_letters",
            )
        }
        # Those of second answers come and go with the attempts; pairs are what counts there.
        first_verdicts = await conn.fetchval("SELECT count(*) FROM verdicts WHERE attempt = 0")
        found.problems += await account_findings(conn, stack.bootstrap, topic, found.unsafe)
    finally:
        await conn.close()
    if progress is None:
        raise RuntimeError("no offsets are stored")
    duplicates = found.records - found.unique - found.bad
    expected: Sequence[tuple[str, int, int]] = (
        ("records read", progress["records"], found.records),
        ("holes", progress["holes"], 0),
        ("offsets advanced", progress["advanced"], found.records),
        ("items with an outcome", sum(found.outcomes.values()), found.records),
        ("stored", found.outcomes.get("stored", 0), found.unique),
        ("duplicates", found.outcomes.get("duplicate(seen)", 0), duplicates),
        ("dead letters", found.outcomes.get("dead_letter(invalid_json)", 0), found.bad),
        ("keys", counts["event_keys"], found.unique),
        ("interactions", counts["interactions"], found.unique),
        ("texts", counts["interaction_texts"], found.unique),
        ("verdicts", first_verdicts, 2 * found.unique),
        ("findings", counts["findings"], found.unsafe),
        ("dead letter rows", counts["dead_letters"], found.bad),
    )
    found.problems += [f"{name}: {is_}, not {should}" for name, is_, should in expected if is_ != should]


def report(found: Outcome) -> Report:
    """The figures of one run."""
    figures = {
        "kills": found.kills,
        "kills that left written rows behind the offset": found.kills_mid_work,
        "records": found.records,
        **{f"outcome {name}": n for name, n in sorted(found.outcomes.items())},
        "problems": len(found.problems),
    }
    results = [summarize("crash", name, "1", [float(value)]) for name, value in figures.items()]
    results.append(summarize("crash", "duration", "s", [found.seconds]))
    return make_report("crash", results, {})


async def _main(options: argparse.Namespace) -> int:
    plan = Plan(
        kills=options.kills,
        rate=options.rate,
        shortest=options.shortest,
        longest=options.longest,
        static=not options.dynamic,
        seed=options.seed,
    )
    async with open_stack(options) as stack:
        found = await crash(stack, plan)
    made = report(found)
    print_table(made)
    if options.json:
        write_json(made, options.json)
    for problem in found.problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default 50)")
    parser.add_argument("--rate", type=int, default=300, help="records a second (default 300)")
    parser.add_argument("--shortest", type=float, default=0.7, help="shortest life in seconds (default 0.7)")
    parser.add_argument("--longest", type=float, default=3.5, help="longest life in seconds (default 3.5)")
    parser.add_argument("--dynamic", action="store_true", help="no instance id: a dynamic group member")
    parser.add_argument("--seed", type=int, default=0, help="of the random lives (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    add_stack_options(parser)
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
