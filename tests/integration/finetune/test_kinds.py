"""SFT and QLoRA: the other kinds of runs, for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where 4-bit runs are made: here, and on a GPU where one is seen."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU is seen here, or this torch was built without CUDA")
    return str(request.param)


def test_a_real_4_bit_run(device: str, data: TinyData, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = kind(quantization="nf4", hardware={"device": device})
    made = finetune(data.folder, tiny_pairs.CHAT, recipe, tmp_path, seed=3, grader=None, report=silent)
    assert made.four_bit_layers == 7 * 4
    assert made.steps == 4
    weights = load_file(made.adapter / "adapter_model.safetensors")
    moved = [weight.abs().max() for name, weight in weights.items() if ".lora_B." in name]
    assert len(moved) == 28
    assert min(moved) > 0


def test_one_4_bit_step_moves_the_adapter_alone_and_on_its_device(
    device: str, data: TinyData, tmp_path: Path
) -> None:
    """A run that fell back to the CPU, or to whole weights, would leave the test above as it is."""
    import torch

    optimizer = {"learning_rate": 2e-3, "batch_size": 8, "max_steps": 1, "warmup_steps": 0}
    recipe = kind(quantization="nf4", hardware={"device": device}, optimizer=optimizer)
    tokenizer = base.load_tokenizer(tiny_pairs.CHAT, recipe)
    model = base.load_model(tiny_pairs.CHAT, recipe, base.check_hardware(recipe))
    packed = [one.weight for one in model.modules() if type(one).__name__ == "Linear4bit"]
    assert len(packed) == base.four_bit_layers(model) == 7 * 4
    assert {(weight.device.type, weight.dtype) for weight in packed} == {(device, torch.uint8)}
    before = [weight.clone() for weight in packed]
    rows = read_rows(data.folder / "train.jsonl")[:8]
    adapter = base.lora_config(model, recipe)
    trainer = make_trainer(model, tokenizer, adapter, recipe, rows, [], tmp_path, device=device, seed=3)
    trainer.train()
    assert trainer.state.global_step == 1
    factors = [weight for name, weight in model.named_parameters() if ".lora_B." in name]
    assert len(factors) == 28
    assert all(weight.device.type == device and bool(weight.any()) for weight in factors)
    assert all(torch.equal(one, other) for one, other in zip(before, packed, strict=True))


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
