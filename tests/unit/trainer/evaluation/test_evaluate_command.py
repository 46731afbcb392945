"""`sentinel train evaluate`: what it says about where the candidate came from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sentinel.errors import CommandError
from tests.support.finetuned import finetuned
from trainer.commands.train import app
from trainer.evaluation import run as evaluation
from trainer.evaluation.plan import EvaluationPlan


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[EvaluationPlan]:
    found: list[EvaluationPlan] = []

    async def capture(plan: EvaluationPlan, *_: Any, **__: Any) -> None:
        found.append(plan)
        raise CommandError("seen")

    monkeypatch.setattr(evaluation, "evaluate", capture)
    return found


def origin(planned: list[EvaluationPlan], adapter: Path, *options: str) -> tuple[str, str]:
    arguments = ["evaluate", str(adapter), "--server", "http://127.0.0.1:9", "--short", "--out", "out"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert str(done.exception) == "seen", done.output
    return planned[-1].base_sha256, planned[-1].dataset_sha256


def test_base_and_data_set_are_read_from_the_fine_tuning(
    tmp_path: Path, planned: list[EvaluationPlan]
) -> None:
    folder = finetuned(tmp_path / "finetune")
    assert origin(planned, folder / "adapter") == ("b" * 64, "d" * 64)
    assert origin(planned, folder / "adapter", "--base-sha256", "x") == ("x", "d" * 64)
    shutil.copytree(folder / "adapter", tmp_path / "alone")
    assert origin(planned, tmp_path / "alone") == ("", "")
    (folder / "manifest.json").write_text('{"schema_version": 1}')
    assert origin(planned, folder / "adapter") == ("", "")
