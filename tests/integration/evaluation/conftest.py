"""A scripted server with characters, and evaluations against it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel.settings import Settings
from tests.integration.evaluation.personas import Personas
from tests.integration.evaluation.plans import plan_of, run_of
from trainer.evaluation.run import evaluate
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
        served_models: dict[str, Any] | None = None,
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
        made = Settings.model_validate(
            {"runs_dir": str(tmp_path), "evaluation": section, "served_models": served_models or {}}
        )
        plan = plan_of(
            made,
            tmp_path,
            candidate,
            run_id=run_of(out or runs),
            incumbent=incumbent,
            base_sha256=base_sha256,
        )
        report = (stages if stages is not None else []).append
        return await evaluate(plan, out or tmp_path / f"evaluation-{runs}", report=report)

    return run
