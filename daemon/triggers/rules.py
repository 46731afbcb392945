"""The rules as pure functions: what a value means for a rule that is armed or not. Nothing here waits or stores.

A rule fires where its value reaches the threshold, and is armed again once the value was below threshold x
rearm: a value that flutters about the threshold fires once. What keeps a run from starting (a freeze, a run
under way, the cool-down, too few fresh pairs) leaves the rule armed: it fires as soon as nothing does. Age and
drift say at once that they were crossed, and start their run later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from sentinel.store.triggers import Client, RuleState


class Rule(StrEnum):
    """The rules, in the order in which they are looked at; the first that fires starts the run."""

    NEW_PAIRS = "new_pairs"
    UNSAFE_RATE = "unsafe_rate"
    ADAPTER_AGE = "adapter_age"
    DRIFT = "drift"


NOTIFYING: Final = frozenset({Rule.ADAPTER_AGE, Rule.DRIFT})
"""Rules that fire without a run where the fresh pairs do not suffice."""


class Act(StrEnum):
    """What follows."""

    NOTHING = "nothing"
    WAIT = "wait"
    """Crossed, but something keeps the run from starting."""
    REARM = "rearm"
    NOTIFY = "notify"
    FIRE = "fire"
    FOLLOW_UP = "follow_up"
    """Start the run of a firing that had none."""


class Obstacles(Struct, frozen=True, kw_only=True):
    """What keeps a run from starting."""

    frozen: bool = False
    busy: bool = False
    cooling: bool = False
    few_pairs: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Those that are there, by name."""
        return tuple(name for name in self.__struct_fields__ if getattr(self, name))


def decide(
    rule: Rule, value: float | None, threshold: float, rearm: float, state: RuleState, obstacles: Obstacles
) -> Act:
    """What a rule does at ``value``; None is a value that cannot be told, which changes nothing."""
    free = not obstacles.reasons
    if not state.armed:
        if state.void and not obstacles.cooling and not obstacles.busy:
            # Its run failed before it took any pair: what crossed is still there, and would wait for ever.
            return Act.REARM
        if value is None:
            return Act.NOTHING
        if value < threshold * rearm:
            return Act.REARM
        return Act.FOLLOW_UP if state.open and free else Act.NOTHING
    if value is None or value < threshold:
        return Act.NOTHING
    if free:
        return Act.FIRE
    return Act.NOTIFY if rule in NOTIFYING and obstacles.reasons == ("few_pairs",) else Act.WAIT


def counted(pairs: Mapping[Client, int], needed: int, share: float, *, several_clients: bool) -> int:
    """Fresh pairs that count towards ``needed``: of each client at most ``share`` of it, where there are several.

    So one client's flood alone never reaches the number while others are served too.
    """
    if not several_clients and len(pairs) < 2:
        return sum(pairs.values())
    cap = math.ceil(needed * share)
    return sum(min(number, cap) for number in pairs.values())


def stability_index(now: Mapping[str, int], before: Mapping[str, int]) -> float:
    """Population stability index of two mixes: sum of (p - q) ln(p / q) over all kinds, 0 where they are equal.

    Half an answer is added to each kind (Jeffreys), so that a kind that is missing on one side is no infinity.
    Source: Siddiqi, Credit Risk Scorecards (2006), chapter 7; by custom below 0.1 is stable, above 0.25 is not.
    """
    kinds = now.keys() | before.keys()
    if not kinds:
        return 0.0
    totals = [sum(mix.values()) + 0.5 * len(kinds) for mix in (now, before)]
    shares = [
        tuple((mix.get(kind, 0) + 0.5) / total for mix, total in zip((now, before), totals, strict=True))
        for kind in kinds
    ]
    return sum((p - q) * math.log(p / q) for p, q in shares)
