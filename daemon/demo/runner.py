"""The demonstration, step by step.

1. parts      database, broker, served model and guard (embedded, or the real ones that were named)
2. service    migrate, `sentinel run`, `sentinel route`
3. traffic    `sentinel traffic` through the route; the daemon scores, stores, asks again
4. wait       until everything was read and asked again
5. report     summary.json and report.html; everything that was started is stopped, also on Ctrl-C
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
import asyncpg
import orjson
from msgspec import Struct
from rich.console import Console
from rich.live import Live

from daemon.demo import progress, report, summary
from daemon.demo.children import Children
from sentinel.clock import Clock
from sentinel.embedded.stack import EmbeddedStack, External
from sentinel.errors import FatalError, UnavailableError
from sentinel.store.migrate import migrate

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

WAIT_LIMIT_S = 120.0
"""Time after the traffic in which everything must have been read and asked again."""


class DemoOptions(Struct, frozen=True, kw_only=True):
    """What the user may choose."""

    runs: Path
    rate: float = 50.0
    requests: int = 1500
    harmful: float = 0.3
    seed: int = 0
    external: External = External()


async def run(options: DemoOptions, *, clock: Clock, console: Console) -> Path:
    """Run the demonstration; returns its folder.

    Raises UnavailableError when a part does not start, and FatalError when records were lost.
    """
    began = clock.monotonic()
    folder = _folder(options.runs, clock.now())
    stack = EmbeddedStack(folder / "parts", external=options.external)
    console.print(f"starting the parts in {folder} …")
    supervising: asyncio.Task[None] | None = None
    try:
        await stack.start()
        config = stack.write_settings()
        await migrate(stack.database_url)
        supervising = asyncio.create_task(stack.supervise(), name="supervise")
        async with Children(folder, config) as children:
            found = await _watch(stack, children, options, folder, clock, console, began)
    finally:
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        await stack.stop()
    _say(console, found, folder)
    if found["lost"]:
        raise FatalError(f"the embedded broker dropped {found['lost']} records before they were read")
    return folder


def _folder(runs: Path, now: dt.datetime) -> Path:
    folder = runs.absolute() / f"demo-{now:%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    # PostgreSQL runs as another account under root and must reach its folder.
    folder.chmod(0o755)
    return folder


async def _watch(
    stack: EmbeddedStack,
    children: Children,
    options: DemoOptions,
    folder: Path,
    clock: Clock,
    console: Console,
    began: float,
) -> dict[str, Any]:
    """Steps 2 to 5 but the stopping."""
    children.start("run")
    children.start("route")
    await _route_answers(stack, children, clock)
    log = folder / "traffic.jsonl"
    traffic = children.start(
        "traffic",
        f"--model-url=http://127.0.0.1:{stack.route_port}",
        f"--rate={options.rate}",
        f"--requests={options.requests}",
        f"--harmful={options.harmful}",
        f"--seed={options.seed}",
        f"--log={log}",
    )
    conn = await asyncpg.connect(stack.database_url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            limit: float | None = None
            while True:
                children.check()
                seen = await progress.read(conn)
                answered = len(summary.read_log(log)) if log.exists() and traffic.ended else _lines(log)
                phase = "traffic" if not traffic.ended else "reading and asking again"
                live.update(progress.table(seen, answered, clock.monotonic() - began, phase))
                if traffic.ended:
                    limit = limit or clock.monotonic() + WAIT_LIMIT_S
                    if seen.records + seen.lost >= answered and not seen.pending:
                        break
                    if clock.monotonic() > limit:
                        raise UnavailableError(
                            f"after {WAIT_LIMIT_S:.0f} s {answered - seen.records} events are not read and"
                            f" {seen.pending} findings not asked again; see {folder}"
                        )
                await asyncio.sleep(0.25)
        return await _report(conn, folder, log, seen, clock.monotonic() - began)
    finally:
        await conn.close()


async def _route_answers(stack: EmbeddedStack, children: Children, clock: Clock) -> None:
    limit = clock.monotonic() + 60
    async with aiohttp.ClientSession() as client:
        while clock.monotonic() < limit:
            children.check()
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(f"http://127.0.0.1:{stack.route_port}/v1/models") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise UnavailableError("the route did not answer within a minute")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def _report(
    conn: Connection, folder: Path, log: Path, seen: progress.Progress, seconds: float
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "before": summary.rates(summary.read_log(log)),
        "after": None,
        "promotion": {"state": "none", "adapter": None, "gate_report": None},
        "outcomes": await summary.outcomes(conn),
        "events": seen.records,
        "findings": seen.findings,
        "pairs": seen.pairs,
        "lost": seen.lost,
        "seconds": seconds,
        "seconds_to_promotion": None,
        "versions": summary.versions(),
    }
    (folder / "summary.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    examples = await conn.fetch(
        "SELECT t.messages->-1->>'text' AS prompt, t.response AS answer, p.chosen AS second FROM findings f"
        " JOIN interaction_texts t ON t.day = f.day AND t.event_id = f.event_id"
        " LEFT JOIN preference_pairs p ON p.finding_id = f.finding_id ORDER BY f.created_at LIMIT 12"
    )
    (folder / "report.html").write_text(
        report.render(found, [dict(row) for row in examples]), encoding="utf-8"
    )
    return found


def _say(console: Console, found: dict[str, Any], folder: Path) -> None:
    unsafe = found["before"]["unsafe_rate"]
    share = "-" if unsafe["value"] is None else f"{100 * unsafe['value']:.1f} %"
    console.print(
        f"{found['events']} events, {found['findings']} findings, {found['pairs']} preference pairs;"
        f" unsafe answers to harmful prompts: {share} (n {unsafe['n']})"
    )
    console.print(f"report   {folder / 'report.html'}")
    console.print(f"summary  {folder / 'summary.json'}")
