"""SFT and QLoRA: the other kinds of runs, for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import tiny_pairs
from benchmarks.tiny_pairs import TinyData
from tests.integration.finetune.conftest import small
from trainer.finetune import base
from trainer.finetune.recipe import Recipe
from trainer.finetune.rows import read_rows
from trainer.finetune.run import finetune
from trainer.finetune.running import make_trainer
from trainer.reporting import silent


def kind(**changes: Any) -> Recipe:
    whole = small().model_dump(exclude={"preference", "optimizer"})
    return Recipe.model_validate(
        {
            **whole,
            "optimizer": {"learning_rate": 2e-3, "batch_size": 8, "max_steps": 4, "warmup_steps": 1},
            "checkpoints": {"every": 2, "prompts": 4, "max_new_tokens": 8},
            **changes,
        }
    )


def test_a_real_4_bit_run(data: TinyData, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = finetune(
        data.folder, tiny_pairs.CHAT, kind(quantization="nf4"), tmp_path, seed=3, grader=None, report=silent
    )
    assert made.four_bit_layers == 7 * 4
    assert made.steps == 4
    weights = load_file(made.adapter / "adapter_model.safetensors")
    moved = [weight.abs().max() for name, weight in weights.items() if ".lora_B." in name]
    assert len(moved) == 28
    assert min(moved) > 0


def test_sft_learns_answers_only(data: TinyData, tmp_path: Path) -> None:
    recipe = kind(method="sft")
    rows = read_rows(data.folder / "train.jsonl")
    tokenizer = base.load_tokenizer(tiny_pairs.CHAT, recipe)
    model = base.load_model(tiny_pairs.CHAT, recipe, "cpu")
    trainer = make_trainer(
        model,
        tokenizer,
        base.lora_config(model, recipe),
        recipe,
        rows[:8],
        [],
        tmp_path,
        device="cpu",
        seed=3,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    learnt = {
        tokenizer.decode(ids[labels != -100], skip_special_tokens=True).strip()
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    }
    assert learnt == {row.chosen[-1].content for row in rows[:8]}


def test_an_sft_run(data: TinyData, tmp_path: Path) -> None:
    made = finetune(
        data.folder, tiny_pairs.CHAT, kind(method="sft"), tmp_path, seed=3, grader=None, report=silent
    )
    assert made.method == "sft"
    assert made.score.loss is not None
    metrics = (tmp_path / "train_metrics.jsonl").read_text()
    assert "rewards/margins" not in metrics
    assert made.final_loss > 0
