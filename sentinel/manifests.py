"""What an artefact is and what it came from; written beside it as ``manifest.json``."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    created_at: dt.datetime
    code_version: str


class ShortcutProbe(BaseModel):
    """How far surface features alone tell the chosen answers from the rejected ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auroc: float | None = Field(ge=0, le=1)
    """0.5 is chance; None where there is too little to measure."""
    by_features: dict[str, float]
    """The same of each sort of features alone: length, first_words, bag_of_words."""
    warn_at: float
    warning: bool
    rows: int


class DatasetManifest(_Manifest):
    """A data set of preference pairs and utility rows."""

    dataset_id: UUID
    served_model: str
    content_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Over the two files of rows; the same input and seed give the same hash."""
    rows: int = Field(ge=0)
    rows_by_kind: dict[str, int]
    """Rows by kind: harmful, twin, utility. Pairs that only teach refusing never stand alone."""
    dropped_by_reason: dict[str, int]
    splits: dict[str, int]
    score_run: int = 0
    """The newest score run whose verdicts were read."""
    seed: int = 0
    mix: dict[str, str | float] = {}
    """What was wanted beside the harmful pairs, and where it came from."""
    rows_by_family: dict[str, int] = {}
    groups: int = 0
    """Groups of near prompts; each is in one split only."""
    collected: int = 0
    """Pairs that the store held, or lines of the file."""
    fresh: int = 0
    """Harmful rows that no data set of an earlier run held."""
    guard_ids: tuple[str, ...] = ()
    """Guards that scored the harmful pairs."""
    source: str = ""
    """Where the harmful pairs came from: ``store``, or a file's name with its hash."""
    first_pair_at: dt.datetime | None = None
    last_pair_at: dt.datetime | None = None
    replaced_rejected: int = 0
    """Rejected sides of an adapter that an unsafe answer of the base replaced."""
    redacted: bool = False
    """Whether personal data was looked for and replaced."""
    redactions: dict[str, int] = {}
    """Values replaced by pseudonyms, by kind."""
    evaluation_prompts: int = 0
    """Prompts that no row may hold."""
    probe: ShortcutProbe | None = None
    files: dict[str, str] = {}
    """sha256 of each file of rows."""


class AdapterManifest(_Manifest):
    """LoRA weights, named by their content."""

    adapter: str
    served_model: str
    base: str
    base_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    dataset_id: UUID
    run_id: UUID
    rank: int = Field(ge=1)
    target_modules: tuple[str, ...]
