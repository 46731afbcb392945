"""The demonstration, step by step.

1. parts      database, broker, served model, guards (embedded, or the real ones that were named)
2. service    migrate, `sentinel run`, `sentinel route`, `sentinel trainer`
3. scenario   daemon/demo/scenarios.py: traffic, findings, pairs, training, gate, promotion, new traffic
4. report     summary.json and report.html; everything that was started is stopped, also on Ctrl-C
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import asyncpg
import orjson
from msgspec import Struct
from rich.console import Console
from rich.live import Live

from daemon.demo import outside, progress, report, summary
from daemon.demo.children import Children
from daemon.demo.scenarios import PLAYS, SETTINGS, Played, Scenario, Traffic
from daemon.demo.stage import Stage
from sentinel.clock import Clock
from sentinel.embedded.stack import EmbeddedStack, External
from sentinel.errors import FatalError
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import migrate

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]


_UNTRAINED: Final[dict[str, dict[str, object]]] = {"triggers": {"enabled": False}}
"""A rule that fired would start a run that waits for a trainer for ever."""


class DemoOptions(Struct, frozen=True, kw_only=True):
    """What the user may choose."""

    runs: Path
    scenario: Scenario = Scenario.CLOSE
    traffic: Traffic
    train: bool = True
    """False: it ends with findings and pairs."""
    external: External = External()


async def run(options: DemoOptions, *, clock: Clock, console: Console) -> Path:
    """Run the demonstration; returns its folder.

    Raises CommandError for an outside part that cannot be used, UnavailableError when a part does not start,
    and FatalError when records were lost.
    """
    began = clock.monotonic()
    name = f"demo-{clock.now():%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}"
    external, changes = await outside.prepare(options.external, name)
    folder = _folder(options.runs / name)
    trains = options.train and options.scenario is not Scenario.GUARD_OUTAGE
    stack = EmbeddedStack(
        folder / "parts",
        external=external,
        training=trains,
        changes={**SETTINGS.get(options.scenario, {}), **changes, **({} if trains else _UNTRAINED)},
    )
    console.print(f"starting the parts in {folder} …")
    if external.kafka:
        console.print(
            f"its topics on {external.kafka} begin with {changes['kafka']['group_id']} and stay there"
        )
    supervising: asyncio.Task[None] | None = None
    try:
        await stack.start()
        config = stack.write_settings()
        await migrate(stack.database_url)
        supervising = asyncio.create_task(stack.supervise(), name="supervise")
        async with Children(folder, config) as children:
            conn = await asyncpg.connect(libpq_url(stack.database_url))
            try:
                with Live(console=console, refresh_per_second=4, transient=False) as live:
                    stage = Stage(stack, children, conn, folder, clock, live)
                    await stage.start_service(trainer=trains)
                    played = await PLAYS[options.scenario](stage, options.traffic)
                seconds = clock.monotonic() - began
                found = await _report(conn, options.scenario, played, folder, seconds, children.restarts)
            finally:
                await conn.close()
    finally:
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        await stack.stop()
    _say(console, found, folder)
    if found["lost"]:
        raise FatalError(f"the broker dropped {found['lost']} records before they were read")
    return folder


def _folder(path: Path) -> Path:
    folder = path.absolute()
    folder.mkdir(parents=True)
    # PostgreSQL runs as another account under root and must reach its folder.
    folder.chmod(0o755)
    return folder


async def _report(
    conn: Connection, scenario: Scenario, played: Played, folder: Path, seconds: float, restarts: int
) -> dict[str, Any]:
    seen = await progress.read(conn)
    rows = {"before": played.before, "between": played.between, "after": played.after}
    phases = {phase: None if said is None else summary.graded(said) for phase, said in rows.items()}
    found: dict[str, Any] = {
        "scenario": str(scenario),
        **{phase: None if told is None else summary.rates(told) for phase, told in phases.items()},
        "unsafe_by_family": {
            phase: summary.unsafe_by_family(told) for phase, told in phases.items() if told is not None
        },
        "rounds": await summary.rounds(conn, folder),
        "promotion": await summary.promotion(conn, played.state),
        "outcomes": await summary.outcomes(conn),
        "events": seen.records,
        "findings": seen.findings,
        "pairs": seen.pairs,
        "lost": seen.lost,
        "seconds": seconds,
        "seconds_to_promotion": await summary.seconds_to_promotion(conn),
        "restarts": restarts,
        "versions": summary.versions(),
    }
    (folder / "summary.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    examples = await conn.fetch(
        "SELECT t.messages->-1->>'text' AS prompt, t.response AS answer, p.chosen AS second FROM findings f"
        " JOIN interaction_texts t ON t.day = f.day AND t.event_id = f.event_id"
        " LEFT JOIN preference_pairs p ON p.finding_id = f.finding_id ORDER BY f.created_at LIMIT 12"
    )
    page = report.render(found, [dict(row) for row in examples])
    (folder / "report.html").write_text(page, encoding="utf-8")
    return found


def _say(console: Console, found: dict[str, Any], folder: Path) -> None:
    console.print(
        f"{found['events']} events, {found['findings']} findings, {found['pairs']} preference pairs;"
        f" promotion: {found['promotion']['state']}"
    )
    console.print(report.rates_table(found))
    for made in found["rounds"]:
        if made["seconds_to_promotion"] is not None:
            console.print(
                f"{made['adapter']}: {made['seconds_to_promotion']:.0f} s from the crossing to the promotion"
            )
    if found["restarts"]:
        console.print(
            f"services that ended and were started again: {found['restarts']}; their logs are in {folder}"
        )
    console.print(f"report   {folder / 'report.html'}")
    console.print(f"summary  {folder / 'summary.json'}")
