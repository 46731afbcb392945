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


class DatasetManifest(_Manifest):
    """A data set of preference pairs and utility rows."""

    dataset_id: UUID
    served_model: str
    content_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: int = Field(ge=0)
    rows_by_kind: dict[str, int]
    """Rows by kind: harmful, twin, utility. Pairs that only teach refusing never stand alone."""
    dropped_by_reason: dict[str, int]
    splits: dict[str, int]
    score_run: int = 0


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
