"""What the demonstration plays: each scenario ends in a state that its test asserts.

close          traffic, findings, pairs, training, gate, promotion; new traffic is safer
bad-candidate  a recipe that makes the model collapse: the gate says no, the base stays in service
guard-outage   the guard goes away under traffic: intake waits, nothing is lost or called safe
kill           daemon and trainer are killed -9 on the way: the loop still closes, once
second-round   a first adapter from pairs of one family, a second from those and new ones: it keeps the first one's gain
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from daemon.demo import progress
from daemon.demo.children import Child
from daemon.demo.stage import CROSSING_LIMIT_S, TRAINING_LIMIT_S, Stage
from daemon.demo.summary import Row
from sentinel.embedded.stack import SERVED_MODEL
from sentinel.store.triggers import fresh_pairs

FIRST_FAMILY: Final = "drugs"
"""What the first round of `second_round` is about; refusing it carries over to other families the least."""
ROUND_PAIRS: Final = 40
"""New pairs that start a round of `second_round`."""
_PARTS: Final = 6
"""Traffic that waits for a crossing comes in sixths of a phase."""
_PARTS_AT_MOST: Final = 18
"""A model that is safe enough may never bring the pairs."""


class Scenario(StrEnum):
    """The choices of ``--scenario``."""

    CLOSE = "close"
    BAD_CANDIDATE = "bad-candidate"
    GUARD_OUTAGE = "guard-outage"
    KILL = "kill"
    SECOND_ROUND = "second-round"


class Traffic(Struct, frozen=True, kw_only=True):
    """The traffic of one phase."""

    requests: int
    rate: float
    harmful: float
    seed: int

    def arguments(self, *, shift: int = 0, parts: int = 1) -> tuple[str, ...]:
        """As arguments of ``sentinel traffic``: another draw of the mix for each ``shift``, and one of ``parts``."""
        return (
            f"--requests={max(1, self.requests // parts)}",
            f"--rate={self.rate}",
            f"--harmful={self.harmful}",
            f"--seed={self.seed + shift}",
            "--no-publish",  # the route publishes
        )


class Played(Struct, frozen=True, kw_only=True):
    """What a scenario left behind."""

    before: Sequence[Row]
    between: Sequence[Row] | None = None
    """Between a first promotion and a second, in the scenario that has two."""
    after: Sequence[Row] | None
    state: str
    """State of the last promotion: none, promoted, rejected, inconclusive, failed or rolled_back."""


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

    await stage.until("traffic", a_third, limit_s=TRAINING_LIMIT_S)
    await asyncio.to_thread(stage.stack.kill_guard)
    await stage.until("traffic without a guard", _ended(sending), limit_s=None)
    await stage.drained()
    return Played(before=stage.exchanges("before"), after=None, state=await stage.decided(runs=1))


async def kill(stage: Stage, traffic: Traffic) -> Played:
    """Kill -9 of the daemon under traffic, and of the trainer in the middle of its run."""
    sending = stage.send("before", *traffic.arguments())

    async def half(seen: progress.Progress) -> bool:
        return seen.records >= traffic.requests // 2 or sending.ended

    await stage.until("traffic", half, limit_s=TRAINING_LIMIT_S)
    await stage.children.running("run").kill()
    stage.children.start("run", service=True)

    async def fine_tuning(seen: progress.Progress) -> bool:
        if sending.ended and stage.brings_no_run(seen):
            return True
        return seen.run_step in {"finetune", "evaluate", "gate"} or seen.run_state in {"succeeded", "failed"}

    await stage.until("traffic, then training", fine_tuning, limit_s=TRAINING_LIMIT_S)
    await stage.children.running("trainer").kill()
    stage.children.start("trainer", service=True)

    await stage.until("traffic", _ended(sending), limit_s=None)
    await stage.drained()
    state = await stage.decided(runs=1)
    after = await stage.traffic("after", *traffic.arguments(shift=1)) if state == "promoted" else None
    return Played(before=stage.exchanges("before"), after=after, state=state)


async def second_round(stage: Stage, traffic: Traffic) -> Played:
    """Two crossings, two adapters: users ask for one family of harm first, and for all of them afterwards."""
    before = await _until_crossing(stage, traffic, 1, "before", f"--families={FIRST_FAMILY}")
    state = await stage.decided(runs=1)
    if state != "promoted":
        return Played(before=before, after=None, state=state)
    between = await _until_crossing(stage, traffic, 2, "between")
    state = await stage.decided(runs=2)
    last = traffic.arguments(shift=3 * _PARTS_AT_MOST)
    after = await stage.traffic("after", *last) if state == "promoted" else None
    return Played(before=before, between=between, after=after, state=state)


async def _until_crossing(
    stage: Stage, traffic: Traffic, number: int, phase: str, *arguments: str
) -> list[Row]:
    """Traffic in parts, each read and asked again to its end, until there are pairs for the run of that number.

    (Traffic that went on until the run began would bring it more pairs on a slow machine than on a quick one.)
    """

    async def crossed(seen: progress.Progress) -> bool:
        return seen.fired >= number

    rows: list[Row] = []
    for part in range(_PARTS_AT_MOST):
        drawn = traffic.arguments(shift=number * _PARTS_AT_MOST + part, parts=_PARTS)
        rows += await stage.traffic(f"{phase}-{part + 1}", *drawn, *arguments)
        pairs = sum((await fresh_pairs(stage.conn, SERVED_MODEL)).by_client.values())
        # Pairs are fresh until the run takes them into its data set, which it may have done by now.
        if pairs >= ROUND_PAIRS or await crossed(await progress.read(stage.conn)):
            await stage.until("the threshold", crossed, limit_s=CROSSING_LIMIT_S)
            break
    return rows


def _ended(child: Child) -> Callable[[progress.Progress], Awaitable[bool]]:
    async def ended(_: progress.Progress) -> bool:
        return child.ended

    return ended


PLAYS: Final[Mapping[Scenario, Callable[[Stage, Traffic], Awaitable[Played]]]] = {
    Scenario.CLOSE: close,
    Scenario.BAD_CANDIDATE: bad_candidate,
    Scenario.GUARD_OUTAGE: guard_outage,
    Scenario.KILL: kill,
    Scenario.SECOND_ROUND: second_round,
}

SETTINGS: Final[Mapping[Scenario, dict[str, Any]]] = {
    Scenario.BAD_CANDIDATE: {"training": {"recipe": "tiny-collapse"}},
    Scenario.SECOND_ROUND: {
        # The first adapter must leave something to learn: few pairs, and a recipe whose strength grows with them.
        "triggers": {"new_pairs": {"count": ROUND_PAIRS}},
        "training": {"recipe": "tiny-rounds"},
        "dataset": {"min_pairs": 20, "mix": {"twins": 1.6, "utility": 0.4}},
        "gate": {"policy": "demo-rounds"},
    },
}
"""What a scenario sets otherwise than the demonstration's own settings."""
