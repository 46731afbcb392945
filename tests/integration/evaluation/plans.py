"""Plans to measure characters: each is an adapter whose folder has the character's name."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid5

from sentinel.ids import NAMESPACE
from sentinel.settings import Settings
from trainer.evaluation.plan import EvaluationPlan, Subject
from trainer.evaluation.sets import load_sets


def subject(folder: Path, persona: str) -> Subject:
    path = folder / persona
    path.mkdir(exist_ok=True)
    return Subject(name=f"tiny-{persona}", path=path, sha256=f"sha of {persona}")


def run_of(out: object) -> UUID:
    return uuid5(NAMESPACE, str(out))


def plan_of(
    settings: Settings,
    folder: Path,
    candidate: str,
    *,
    run_id: UUID,
    incumbent: str | None = None,
    base_sha256: str = "base",
) -> EvaluationPlan:
    return EvaluationPlan(
        settings=settings,
        served_model="tiny",
        run_id=run_id,
        candidate=subject(folder, candidate),
        incumbent=subject(folder, incumbent) if incumbent else None,
        base_sha256=base_sha256,
        dataset_sha256="data",
        sets=load_sets(settings),
    )
