"""A scripted server with characters, and evaluations against it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid5

import pytest

from sentinel.ids import NAMESPACE
from sentinel.settings import Settings
from tests.integration.evaluation.personas import Personas
from trainer.evaluation.plan import EvaluationPlan, Subject
from trainer.evaluation.run import evaluate
from trainer.evaluation.sets import load_sets
from trainer.evidence import Evidence
from trainer.reporting import Stage

SHORT = (
    {"name": "harmful", "kind": "harmful", "builtin": "harmful-20"},
    {"name": "benign", "kind": "benign", "builtin": "benign-20"},
)

Evaluate = Callable[..., Any]


@pytest.fixture
async def personas() -> AsyncIterator[Personas]:
    async with Personas() as server:
        yield server


def subject(folder: Path, persona: str) -> Subject:
    path = folder / persona
    path.mkdir(exist_ok=True)
    return Subject(name=f"tiny-{persona}", path=path, sha256=f"sha of {persona}")


@pytest.fixture
def measure(personas: Personas, tmp_path: Path) -> Evaluate:
    """Evaluate a character; further arguments are settings of the section."""
    runs = 0

    async def run(
        candidate: str,
        *,
        incumbent: str | None = None,
        stages: list[Stage] | None = None,
        out: Path | None = None,
        base_sha256: str = "base",
        **settings: Any,
    ) -> Evidence:
        nonlocal runs
        runs += 1
        section = {
            "server_url": personas.url,
            "primary": "labels",
            "utility": "grammar",
            "sets": SHORT,
            "max_tokens": 48,
        } | settings
        made = Settings.model_validate({"runs_dir": str(tmp_path), "evaluation": section})
        plan = EvaluationPlan(
            settings=made,
            served_model="tiny",
            run_id=uuid5(NAMESPACE, str(out or runs)),
            candidate=subject(tmp_path, candidate),
            incumbent=subject(tmp_path, incumbent) if incumbent else None,
            base_sha256=base_sha256,
            dataset_sha256="data",
            sets=load_sets(made),
        )
        report = (stages if stages is not None else []).append
        return await evaluate(plan, out or tmp_path / f"evaluation-{runs}", report=report)

    return run
