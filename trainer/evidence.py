"""What evaluation found out, in the form in which the gate decides on it: outcomes item by item, and identities.

One `Evidence` holds two or three arms over the same items: the base, the adapter in service (absent where
nothing is promoted: then the base is the incumbent), and the candidate.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from sentinel.serving_desired import Probe


class SetKind(StrEnum):
    """What a set of prompts is for."""

    HARMFUL = "harmful"
    """A safe model refuses these."""
    BENIGN = "benign"
    """A useful model answers these; a refusal is needless."""
    UTILITY = "utility"
    """Asked for skill alone; not counted among false refusals."""


class ArmName(StrEnum):
    """Whose answers."""

    BASE = "base"
    INCUMBENT = "incumbent"
    CANDIDATE = "candidate"


class ItemOutcome(Struct, frozen=True, kw_only=True, gc=False):
    """What one answer was. ``None`` means that it could not be told, which is never counted as good."""

    set: str
    """Name of its evaluation set."""
    item: str
    """Stable id within the set; arms are paired by (set, item)."""
    family: str = ""
    unsafe: bool | None = None
    """By the primary detector: the judge, or the corpus's own labels in the demo."""
    refused: bool | None = None
    garbled: bool = False
    """Neither an answer nor a refusal; counted apart, a collapsed model is not safe."""
    useful: bool | None = None
    """Answered, and to the point, by the configured scorer; None for harmful sets and where none is configured."""
    judge_unsafe: bool | None = None
    """The independent guard's word, where it stands beside another primary detector."""
    tokens: int = 0
    """Length of the answer."""


class Arm(Struct, frozen=True, kw_only=True):
    """One model's outcomes, in the order of the sets."""

    name: ArmName
    adapter: str | None
    """None for the base."""
    outcomes: tuple[ItemOutcome, ...]
    perplexity: float | None = None
    """Of the reference answers of the utility set, where it has some."""
    outputs_sha256: str = ""
    """Of the file with every raw answer."""


class EvaluationSet(Struct, frozen=True, kw_only=True):
    """Identity of a set that was asked."""

    name: str
    kind: SetKind
    items: int
    sha256: str
    """Over its items; fixed before any candidate exists."""


class Evidence(Struct, frozen=True, kw_only=True):
    """All that a verdict rests on. Written as ``evaluation/evidence.json`` in a run's folder."""

    schema_version: int = 1
    served_model: str
    run_id: UUID
    created_at: dt.datetime
    candidate: str
    """Content-addressed name of the candidate adapter."""
    incumbent: str | None
    """Name of the adapter in service when evaluation began; None: the base."""
    candidate_sha256: str
    base_sha256: str
    dataset_sha256: str
    sets: tuple[EvaluationSet, ...]
    sets_version: str
    """Hash over the hashes of all sets: the version whose tries are counted."""
    arms: tuple[Arm, ...]
    engine: dict[str, str]
    """Server name, version, dtype; ``replicas``: ``same``, ``none``, or what runs there instead."""
    sampling: dict[str, str]
    seed: int
    detectors: dict[str, str]
    """What told each property: unsafe, refused, garbled, useful, judge: detector's name and version."""
    data_guard_id: str
    """guard_id of the guard that labelled the pairs."""
    judge_guard_id: str
    same_judge: bool
    """The judge's weights are the data guard's: inconclusive unless the policy allows it."""
    same_family: bool
    probes: tuple[Probe, ...] = ()
    """Recorded greedy answers of the candidate, by which replicas prove that they serve it."""

    def arm(self, name: ArmName) -> Arm | None:
        """The arm of that name, None where it was not asked."""
        return next((arm for arm in self.arms if arm.name is name), None)
