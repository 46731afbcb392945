"""What a step optimises, and how fast: losses added by their weights, warm-up, cosine, clipping."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiny_pairs
from benchmarks.tiny_pairs import TinyData
from tests.integration.finetune.conftest import STEPS, small
from trainer.finetune.outcome import Finetuned
from trainer.finetune.run import finetune
from trainer.reporting import silent

Run = tuple[Path, Finetuned]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train_metrics.jsonl").read_bytes().splitlines()]


def trained(data: TinyData, folder: Path, **changes: Any) -> list[dict[str, Any]]:
    finetune(data.folder, tiny_pairs.CHAT, small(**changes), folder, seed=3, grader=None, report=silent)
    return lines(folder)


def test_losses_are_added_by_their_weights(data: TinyData, tmp_path: Path) -> None:
    """Before the first step the model is the reference: the preference loss is ln 2, the rest is the other's."""
    short = {
        "optimizer": {"learning_rate": 2e-3, "batch_size": 8, "max_steps": 1, "warmup_steps": 0},
        "checkpoints": {"every": 1, "prompts": 0},
    }
    rest = {}
    for weight in (0.25, 0.75):
        loss = {"sigmoid": 1.0, "sft": weight}
        steps = trained(data, tmp_path / str(weight), preference={"loss": loss}, **short)
        rest[weight] = next(one["loss"] for one in steps if "loss" in one) - math.log(2)
    assert rest[0.25] > 0.01
    assert rest[0.75] == pytest.approx(3 * rest[0.25], rel=1e-2)


def test_the_rate_warms_up_and_falls_as_a_cosine(finished: Run) -> None:
    steps = [one for one in lines(finished[0]) if "learning_rate" in one]
    warm, peak = 2, 2e-3
    wanted = [
        peak
        * (step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm))))
        for step in range(STEPS)
    ]
    assert [one["learning_rate"] for one in steps] == pytest.approx(wanted, rel=1e-3, abs=1e-9)
    assert all(one["grad_norm"] > 0 for one in steps)


def test_large_gradients_are_clipped(data: TinyData, tmp_path: Path) -> None:
    """AdamW's own steps do not depend on a gradient's size; what is left after clipping to nothing does not move."""
    from safetensors.torch import load_file

    moved = {}
    for clip in (1e-12, 1.0):
        optimizer = {"learning_rate": 2e-3, "batch_size": 8, "max_steps": 2, "warmup_steps": 0, "clip": clip}
        trained(data, tmp_path / str(clip), optimizer=optimizer, checkpoints={"every": 2, "prompts": 0})
        weights = load_file(tmp_path / str(clip) / "adapter" / "adapter_model.safetensors")
        moved[clip] = max(float(w.abs().max()) for name, w in weights.items() if ".lora_B." in name)
    assert moved[1e-12] < 0.01 * moved[1.0]
