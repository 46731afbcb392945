"""The folder of a finished fine-tuning, without any training."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sentinel.clock import SystemClock
from trainer.finetune.outcome import Finetuned, write_manifest
from trainer.finetune.records import Records
from trainer.finetune.validation import Score

WEIGHTS = b"the weights"


def finetuned(folder: Path) -> Path:
    """What a finished fine-tuning leaves, with weights that nobody trained."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "config_snapshot.yaml").write_text("family: llama\n")
    (folder / "train_metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    made = Finetuned(
        adapter=folder / "adapter", weights_sha256=hashlib.sha256(WEIGHTS).hexdigest(), adapter_bytes=len(WEIGHTS),
        created_at=SystemClock().now(), code_version="1", rank=8, alpha=16, dropout=0.0,
        target_modules=("q_proj",), base="team/base-1b", base_sha256="b" * 64, dataset_sha256="d" * 64,
        recipe_sha256="r" * 64, seed=5, method="dpo", rows=96, steps=36, planned_steps=40, stopped=None,
        chosen_step=24, why="the best answers",
        score=Score(safety=0.9375, usefulness=1.0, garbled=0.0, length_ratio=1.0, loss=0.1), final_loss=0.0625,
        four_bit_layers=0, metrics=folder / "train_metrics.jsonl",
    )  # fmt: skip
    write_manifest(Records(folder, SystemClock()), made)
    return folder
