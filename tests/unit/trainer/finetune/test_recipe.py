"""Recipes: those that ship load, and what cannot work is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sentinel.errors import ConfigurationError
from sentinel.resources import data_path, recipe_names
from trainer.finetune.families import FAMILIES
from trainer.finetune.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from trainer.finetune.running import steps_of

WANTED = {
    "tiny", "default", "llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "qwen2.5-7b", "qwen2.5-14b", "phi-3-mini",
    "gemma-2-2b", "phi-2", "gpt2",
}  # fmt: skip


def leaves(value: object, at: str = "") -> set[str]:
    if not isinstance(value, dict) or at == "preference.loss":
        return {at}
    return {leaf for key, one in value.items() for leaf in leaves(one, f"{at}.{key}" if at else key)}


def test_every_base_that_is_promised_has_a_recipe() -> None:
    assert set(recipe_names()) >= WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_shipped_recipe_loads_and_spells_every_value_out(name: str) -> None:
    recipe = load_recipe(name)
    written = yaml.safe_load(data_path("configs", "train", f"{name}.yaml").read_text())
    unused = "optimizer.max_steps" if recipe.optimizer.max_steps is None else "optimizer.epochs"
    expected = leaves(recipe.model_dump(mode="json")) - {unused}
    assert leaves(written) == expected
    assert recipe.family is None or recipe.family in FAMILIES


@pytest.mark.parametrize("name", recipe_names())
def test_a_dumped_recipe_is_the_same_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(dump_recipe(recipe), "again") == recipe


def test_a_dumped_recipe_of_the_other_kinds_is_the_same_too() -> None:
    recipe = parse_recipe("{method: sft, optimizer: {max_steps: 7, warmup_steps: 2}}", "here")
    assert parse_recipe(dump_recipe(recipe), "again") == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "optimizer: {learning_rat: 1}",
            "unknown key optimizer.learning_rat; the nearest known one is optimizer.learning_rate",
        ),
        ("lora: {r: 8}", "unknown key lora.r;"),
        ("{rank: 8}", "unknown key rank; the nearest known one is lora.rank"),
        ("{quantization: nf4, merge: true}", "4-bit base"),
        ("lora: {rank: 32, max_rank: 16}", "lora.rank 32 is above lora.max_rank 16"),
        ("{method: sft, preference: {beta: 0.2}}", "no rejected side"),
        ("preference: {loss: {sft: 1.0}}", "method: sft"),
        ("preference: {loss: {sigmoidal: 1.0}}", "sigmoidal is none of"),
        ("preference: {label_smoothing: 0.1}", "only robust and exo_pair"),
        ("optimizer: {epochs: 2, max_steps: 10}", "epochs or max_steps"),
        ("limits: {length: [2.0, 1.0]}", "below the greatest"),
        ("lora: {target_modules: []}", "at least one"),
        ("quantization: int4", "quantization"),
        ("optimizer: {learning_rate: .nan}", "learning_rate"),
        ("- a", "must be a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"recipe here") as refused:
        parse_recipe(text, "here")
    assert said in str(refused.value)


def test_a_recipe_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean qwen2\.5-7b"):
        load_recipe("qwen2.5-7")


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("lora: {rank: 4}")
    assert load_recipe(path).lora.rank == 4


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    recipe = Recipe.model_validate({"optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 5}})
    assert steps_of(recipe, 12) == 6
    assert steps_of(recipe, 24, processes=2) == 6
    with pytest.raises(ConfigurationError, match="warmup_steps 5 leaves nothing of 4 steps"):
        steps_of(recipe, 8)
