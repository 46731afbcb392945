"""What the route costs, beside LiteLLM's proxy and a bare one: `python -m benchmarks.route --json FILE`.

All stand before the same scripted model server, and each is one process. Per repetition and target:

    latency      one request after the other, each followed by one to the model server itself; the added
                 time is the difference, percentile by percentile
    throughput   16 callers for some seconds: requests a second, and the target's own processor time a request
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg
import yaml

from benchmarks import environments
from benchmarks.processes import Program
from benchmarks.report import ROOT, Result, make_report, print_table, summarize, write_json
from producers.route.aliases import litellm_config
from sentinel.embedded.broker import EmbeddedBroker
from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.settings import load
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import migrate
from sentinel.store.promotions import Promoted

HERE = Path(__file__).resolve().parent / "proxies"
LITELLM = (HERE / "litellm.in", HERE / "litellm.txt")
PUBLIC, SERVED, ADAPTER = "assistant", "assistant", "adapter-0f1e2d3c"
CALLERS = 16
START_TIMEOUT = 120.0
TARGETS = ("bare", "route", "route_publishing", "litellm")
WORDS = "What can you tell me about the history of this city, and where should I begin to read? " * 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to run."""

    requests: int
    seconds: float
    repetitions: int


@dataclass(slots=True)
class Samples:
    """What one target was measured at: one value for each repetition."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, metric: str, unit: str, value: float) -> None:
        """Note one repetition's figure."""
        self.values.setdefault((metric, unit), []).append(value)

    def results(self, case: str) -> list[Result]:
        """The figures, reduced."""
        return [summarize(case, metric, unit, found) for (metric, unit), found in self.values.items()]


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def body(model: str, *, stream: bool) -> bytes:
    """A chat request of about 1.5 kB."""
    turns = [{"role": "system", "content": "You are a guide."}, {"role": "user", "content": WORDS * 2}]
    return json.dumps({"model": model, "messages": turns, "temperature": 0, "stream": stream}).encode()


async def call(session: aiohttp.ClientSession, url: str, data: bytes) -> float:
    """Seconds of one call. Raises RuntimeError for any answer but a whole one."""
    began = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", data=data) as reply:
        answer = await reply.read()
    if reply.status != 200 or b'"stop"' not in answer:
        raise RuntimeError(f"{url} answered {reply.status}: {answer[:300]!r}")
    return time.perf_counter() - began


async def latencies(
    session: aiohttp.ClientSession, calls: Sequence[tuple[str, bytes]], n: int
) -> list[list[float]]:
    """Sorted seconds of ``n`` calls of each, taking turns: a busy moment of the machine hits all of them."""
    found: list[list[float]] = [[] for _ in calls]
    for number in range(n + 20):
        for seconds, (url, data) in zip(found, calls, strict=True):
            took = await call(session, url, data)
            if number >= 20:
                seconds.append(took)
    return [sorted(seconds) for seconds in found]


async def throughput(
    session: aiohttp.ClientSession, url: str, data: bytes, seconds: float
) -> tuple[int, float]:
    """Calls and seconds of `CALLERS` callers."""
    end = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(session, url, data)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done, time.perf_counter() - began


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(
    targets: Mapping[str, tuple[str, Program]], plan: Plan, samples: Mapping[str, Samples]
) -> None:
    """One repetition of everything, each target beside a fresh look at the model server."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        model_url, _ = targets["model"]
        for kind in ("chat", "stream"):
            stream = kind == "stream"
            for name, (url, program) in targets.items():
                data = body(ADAPTER if name in ("model", "bare") else PUBLIC, stream=stream)
                straight = (model_url, body(ADAPTER, stream=stream))
                own, direct = await latencies(session, ((url, data), straight), plan.requests)
                done, took = await throughput(session, url, data, 1.0)  # warm
                before = program.cpu_seconds()
                done, took = await throughput(session, url, data, plan.seconds)
                cpu = program.cpu_seconds() - before
                found = samples[name]
                if name != "model":
                    for share in (0.5, 0.99):
                        added = (percentile(own, share) - percentile(direct, share)) * 1e3
                        found.add(f"{kind}: added p{share * 100:.0f}", "ms", added)
                found.add(f"{kind}: throughput", "1/s", done / took)
                found.add(f"{kind}: CPU of the target", "us/request", cpu / done * 1e6)
                print(
                    f"{name} {kind}: {done / took:,.0f}/s, p50 {statistics.median(own) * 1e3:.2f} ms",
                    flush=True,
                )


async def until_open(session: aiohttp.ClientSession, program: Program, url: str) -> None:
    """Wait until a target answers a call."""
    end = time.monotonic() + START_TIMEOUT
    while True:
        program.check()
        try:
            async with session.post(
                f"{url}/v1/chat/completions",
                data=body(PUBLIC, stream=False),
                headers={"Content-Type": "application/json", "Authorization": "Bearer none"},
            ) as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"{program.name} did not open:\n{program.tail()}")
        await asyncio.sleep(0.2)


async def database(folder: Path, stack: AsyncExitStack) -> str:
    """A migrated database in which the adapter is promoted."""
    server = stack.enter_context(EmbeddedPostgres(folder / "postgres", durable=False))
    await migrate(server.url)
    connection = await asyncpg.connect(libpq_url(server.url))
    try:
        await connection.execute(
            "INSERT INTO adapters (adapter, served_model, path, weights_sha256, manifest)"
            " VALUES ($1, $2, '', '', '{}')",
            ADAPTER,
            SERVED,
        )
        await connection.execute(
            "INSERT INTO promotions (promotion_id, served_model, generation, adapter, action, actor)"
            " VALUES ($1, $2, 1, $3, 'promote', 'benchmark')",
            uuid.uuid4(),
            SERVED,
            ADAPTER,
        )
    finally:
        await connection.close()
    return server.url


@asynccontextmanager
async def opened(names: Sequence[str], litellm: Path | None) -> AsyncIterator[dict[str, tuple[str, Program]]]:
    """Every target with its address, started and answering."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sentinel-bench-")))
        folder.chmod(0o755)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        targets: dict[str, tuple[str, Program]] = {}

        async def start(name: str, command: Sequence[str], url: str) -> None:
            program = await stack.enter_async_context(
                Program(name, command, folder / f"{name}.log", cwd=ROOT)
            )
            await until_open(session, program, url)
            targets[name] = (url, program)

        model = f"http://127.0.0.1:{free_port()}"
        port = model.rpartition(":")[2]
        scripted = ["-m", "sentinel.embedded.scripted_model", "--obeys", "x", "--adapters", ADAPTER]
        await start("model", [sys.executable, *scripted, "--port", port], model)
        if "bare" in names:
            port = str(free_port())
            program = ["-m", "benchmarks.proxies.bare_proxy", "--upstream", model, "--port", port]
            await start("bare", [sys.executable, *program], f"http://127.0.0.1:{port}")
        served = {SERVED: {"public_name": PUBLIC, "base": "scripted-model", "replicas": [model]}}
        if {"route", "route_publishing"} & set(names):
            url = await database(folder, stack)
            broker = stack.enter_context(EmbeddedBroker())
            broker.create_topic("llm.events", partitions=1)
            for name in ("route", "route_publishing"):
                if name not in names:
                    continue
                port = str(free_port())
                settings = {
                    "served_models": json.dumps(served),
                    "database.url": url,
                    "route.port": port,
                    "route.metrics_port": "0",
                    "route.spool_dir": str(folder / name),
                    "route.publish": str(name == "route_publishing").lower(),
                    "kafka.bootstrap_servers": broker.bootstrap,
                }
                flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
                command = [str(Path(sys.executable).with_name("sentinel")), "--config", os.devnull]
                await start(name, [*command, *flags, "route"], f"http://127.0.0.1:{port}")
        if litellm is not None:
            port = str(free_port())
            settings_ = load(None, [f"served_models={json.dumps(served)}"], environ={}).settings
            text = litellm_config(settings_, {SERVED: Promoted(1, ADAPTER)})
            config = folder / "litellm.yaml"
            # What its own advice for production turns off.
            quiet = {
                "litellm_settings": {"set_verbose": False},
                "general_settings": {"disable_spend_logs": True},
            }
            config.write_text(text + yaml.safe_dump(quiet))
            command = [
                "/usr/bin/env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_LOG=ERROR", "LITELLM_MODE=PRODUCTION",
                # No keys on either side: what is compared is the way through.
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true",
                str(litellm.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1", "--port", port,
                "--num_workers", "1", "--telemetry", "False",
            ]  # fmt: skip
            await start("litellm", command, f"http://127.0.0.1:{port}")
        yield targets


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.route", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    parser.add_argument("--requests", type=int, default=300, help="calls in a row (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each throughput run (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--only", default=",".join(TARGETS), metavar="NAMES", help="of %(default)s")
    parser.add_argument("--lock", action="store_true", help="only resolve LiteLLM's requirements anew")
    options = parser.parse_args(arguments)
    options.names = [name for name in options.only.split(",") if name]
    if unknown := set(options.names) - set(TARGETS):
        parser.error(f"unknown targets: {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    """Run the comparison and print it."""
    options = parse()
    if options.lock:
        environments.write_lock(*LITELLM)
        return
    python = environments.prepare("litellm", LITELLM[1]) if "litellm" in options.names else None
    plan = Plan(options.requests, options.seconds, options.repetitions)
    samples = {name: Samples() for name in ("model", *TARGETS)}

    async def run() -> None:
        async with opened(options.names, python) as targets:
            for _ in range(plan.repetitions):
                await measure(targets, plan, samples)

    asyncio.run(run())
    versions = {"route": environments.versions(Path(sys.executable), ("sentinel-loop", "aiohttp", "uvloop"))}
    if python is not None:
        versions["litellm"] = environments.versions(python, ("litellm", "uvicorn", "fastapi"))
    report = make_report(
        "route", [result for name, found in samples.items() for result in found.results(name)], versions
    )
    if options.json:
        write_json(report, options.json)
    print_table(report)


if __name__ == "__main__":
    main()
