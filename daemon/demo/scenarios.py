"""What the demonstration plays: each scenario ends in a state that its test asserts.

close          traffic, findings, pairs, training, gate, promotion; new traffic is safer
bad-candidate  a recipe that makes the model collapse: the gate says no, the base stays in service
guard-outage   the guard goes away under traffic: intake waits, nothing is lost or called safe
kill           daemon and trainer are killed -9 on the way: the loop still closes, once
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from daemon.demo import progress
from daemon.demo.children import Child
from daemon.demo.stage import Stage
from daemon.demo.summary import Row


class Scenario(StrEnum):
    """The choices of ``--scenario``."""

    CLOSE = "close"
    BAD_CANDIDATE = "bad-candidate"
    GUARD_OUTAGE = "guard-outage"
    KILL = "kill"


class Traffic(Struct, frozen=True, kw_only=True):
    """The traffic of one phase."""

    requests: int
    rate: float
    harmful: float
    seed: int

    def arguments(self, *, shift: int = 0) -> tuple[str, ...]:
        """As arguments of ``sentinel traffic``; ``shift`` makes another draw of the same mix."""
        return (
            f"--requests={self.requests}",
            f"--rate={self.rate}",
            f"--harmful={self.harmful}",
            f"--seed={self.seed + shift}",
            "--no-publish",  # the route publishes
        )


class Played(Struct, frozen=True, kw_only=True):
    """What a scenario left behind."""

    before: Sequence[Row]
    after: Sequence[Row] | None
    state: str
    """State of the promotion: none, promoted, rejected, inconclusive, failed or rolled_back."""


async def close(stage: Stage, traffic: Traffic) -> Played:
    """The whole loop, once."""
    before = await stage.traffic("before", *traffic.arguments())
    state = await stage.decided(runs=1)
    after = await stage.traffic("after", *traffic.arguments(shift=1)) if state == "promoted" else None
    return Played(before=before, after=after, state=state)


async def bad_candidate(stage: Stage, traffic: Traffic) -> Played:
    """The settings name a recipe that collapses; see `sentinel/embedded/stack.py`."""
    before = await stage.traffic("before", *traffic.arguments())
    return Played(before=before, after=None, state=await stage.decided(runs=1))


async def guard_outage(stage: Stage, traffic: Traffic) -> Played:
    """The guard is killed while traffic comes in, and is back some seconds later."""
    sending = stage.send("before", *traffic.arguments())

    async def a_third(seen: progress.Progress) -> bool:
        return seen.records >= traffic.requests // 3 or sending.ended

    await stage.until("traffic", a_third, limit_s=120.0)
    await asyncio.to_thread(stage.stack.kill_guard)
    await stage.until("traffic without a guard", _ended(sending), limit_s=None)
    await stage.drained()
    return Played(before=stage.exchanges("before"), after=None, state=await stage.decided(runs=1))


async def kill(stage: Stage, traffic: Traffic) -> Played:
    """Kill -9 of the daemon under traffic, and of the trainer in the middle of its run."""
    sending = stage.send("before", *traffic.arguments())

    async def half(seen: progress.Progress) -> bool:
        return seen.records >= traffic.requests // 2 or sending.ended

    await stage.until("traffic", half, limit_s=120.0)
    await stage.children.running("run").kill()
    stage.children.start("run", service=True)

    async def fine_tuning(seen: progress.Progress) -> bool:
        return seen.run_step in {"finetune", "evaluate", "gate"} or seen.run_state in {"succeeded", "failed"}

    await stage.until("traffic, then training", fine_tuning, limit_s=240.0)
    await stage.children.running("trainer").kill()
    stage.children.start("trainer", service=True)

    await stage.until("traffic", _ended(sending), limit_s=None)
    await stage.drained()
    state = await stage.decided(runs=1)
    after = await stage.traffic("after", *traffic.arguments(shift=1)) if state == "promoted" else None
    return Played(before=stage.exchanges("before"), after=after, state=state)


def _ended(child: Child) -> Callable[[progress.Progress], Awaitable[bool]]:
    async def ended(_: progress.Progress) -> bool:
        return child.ended

    return ended


PLAYS: Final[Mapping[Scenario, Callable[[Stage, Traffic], Awaitable[Played]]]] = {
    Scenario.CLOSE: close,
    Scenario.BAD_CANDIDATE: bad_candidate,
    Scenario.GUARD_OUTAGE: guard_outage,
    Scenario.KILL: kill,
}

SETTINGS: Final[Mapping[Scenario, dict[str, Any]]] = {
    Scenario.BAD_CANDIDATE: {"training": {"recipe": "tiny-collapse"}},
}
"""What a scenario sets otherwise than the demonstration's own settings."""
