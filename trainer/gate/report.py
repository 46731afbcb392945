"""What the gate says: a verdict, every check behind it, and reasons in words."""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID

from msgspec import Struct

RULES: Final = 2
"""Version of the rules in `trainer.gate.decision`; a bundle is recomputed under the rules that made it."""


class Verdict(StrEnum):
    """Of a check and of the whole. Everything but a pass means no."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """It could not be decided: too little, or not in order."""


class Check(Struct, frozen=True, kw_only=True):
    """One condition. Shares are in [0, 1]; an absent number does not apply."""

    name: str
    asks: str
    """The condition in words."""
    outcome: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of the interval; each is a one-sided bound at ``level``."""
    limit: float | None = None
    n: int | None = None
    p: float | None = None
    level: float | None = None
    reason: str = ""
    """Why it is not a pass; empty where it is."""


class Group(Struct, frozen=True, kw_only=True):
    """Counts of one property in one family, or over all."""

    told: str
    family: str
    """Empty: all prompts on which the property is counted."""
    n: int
    candidate: int
    incumbent: int


class GateReport(Struct, frozen=True, kw_only=True):
    """The gate's answer on one candidate."""

    rules: int = RULES
    verdict: Verdict
    served_model: str
    run_id: UUID
    candidate: str
    candidate_sha256: str
    incumbent: str | None
    """Adapter in service when evaluation began; None: the base."""
    mode: str
    policy: str
    policy_sha256: str
    sets_version: str
    k: int
    """Number of this try on that version."""
    alpha: float
    level: float
    """Of every test of this try: alpha x 6 / (pi^2 k^2)."""
    family: str
    """The family that the run was started for; empty: all harmful prompts."""
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    """Why not, in words; empty for a pass."""
    notes: tuple[str, ...]
    """What a reader should know whatever the verdict."""
    groups: tuple[Group, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may go into service."""
        return self.verdict is Verdict.PASS
