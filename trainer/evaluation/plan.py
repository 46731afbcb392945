"""What one evaluation is to find out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from msgspec import Struct

from trainer.evaluation.items import LoadedSet
from trainer.evidence import ArmName

if TYPE_CHECKING:
    from sentinel.settings import Settings


class Subject(Struct, frozen=True, kw_only=True):
    """An adapter that is measured."""

    name: str
    """Content-addressed; it is loaded under this name."""
    path: Path
    """Its folder as this process sees it."""
    sha256: str
    """Of its weights."""


class EvaluationPlan(Struct, frozen=True, kw_only=True):
    """Everything that `trainer.evaluation.run.evaluate` needs."""

    settings: Settings
    served_model: str
    run_id: UUID
    candidate: Subject
    incumbent: Subject | None
    """None where nothing is promoted: the base is what is in service."""
    base_sha256: str
    """Empty where it is not known: then nothing is reused from, or kept for, other runs."""
    dataset_sha256: str
    sets: tuple[LoadedSet, ...]
    server_url: str | None = None
    """Instead of ``evaluation.server_url``."""

    @property
    def subjects(self) -> tuple[tuple[ArmName, Subject | None], ...]:
        """The arms with their adapters, in the order of reports."""
        arms: list[tuple[ArmName, Subject | None]] = [(ArmName.BASE, None)]
        if self.incumbent is not None:
            arms.append((ArmName.INCUMBENT, self.incumbent))
        arms.append((ArmName.CANDIDATE, self.candidate))
        return tuple(arms)
