"""What a guard said about a text, kept whole, and the policy that reads it."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from uuid import UUID

from msgspec import Struct


class Label(StrEnum):
    """The four states of a full guard's answer. Unparseable is never safe."""

    SAFE = "safe"
    CONTROVERSIAL = "controversial"
    UNSAFE = "unsafe"
    UNPARSEABLE = "unparseable"


class Role(StrEnum):
    """Which text of an exchange a verdict is about."""

    PROMPT = "prompt"
    RESPONSE = "response"


class ScreeningLabel(StrEnum):
    """What the local first stage may say; none of these is a verdict."""

    SUSPECT = "suspect"
    CLEAR = "clear"
    ABSTAIN = "abstain"


class Assessment(Struct, frozen=True, kw_only=True, gc=False):
    """A guard's answer about one text, parsed but not yet tied to an event."""

    label: Label
    categories: tuple[str, ...] = ()
    """The vendor's own category names."""
    refusal: bool | None = None
    """Whether the answer refuses, where the guard's grammar says so."""
    score: float | None = None
    """Probability of unsafe in [0, 1], where the guard gives one."""
    raw: str = ""
    """The guard's text as it came, without U+0000."""
    windows: int = 1
    """Number of windows the text was cut into; the worst label won."""


class Verdict(Struct, frozen=True, gc=False):
    """An assessment of one side of one event by one guard; the key's first stored verdict is final.

    Key: (event_id, role, attempt, guard_id, score_run). Attempt 0 is the original answer, 1.. the re-prompts.
    """

    event_id: UUID
    role: Role
    attempt: int
    guard_id: str
    score_run: int
    assessment: Assessment
    guard_model: str
    template: str
    policy_version: str


class Screening(Struct, frozen=True, kw_only=True, gc=False):
    """What the local first stage said about an exchange."""

    event_id: UUID
    screener_id: str
    label: ScreeningLabel
    score: float | None
    created_at: dt.datetime


class Policy(Struct, frozen=True, kw_only=True, gc=False):
    """How labels are read. ``strict`` counts controversial as unsafe (Qwen3Guard's strict mode)."""

    version: str
    strict: bool = False
    ignored_categories: frozenset[str] = frozenset()
    """Categories that alone do not make an answer unsafe under this policy."""

    def is_unsafe(self, assessment: Assessment) -> bool | None:
        """True or False for a readable verdict, None where the guard gave none: unknown is never safe."""
        match assessment.label:
            case Label.SAFE:
                return False
            case Label.UNPARSEABLE:
                return None
            case Label.CONTROVERSIAL if not self.strict:
                return False
            case Label.CONTROVERSIAL | Label.UNSAFE:
                named = assessment.categories
                return not (named and self.ignored_categories.issuperset(named))
