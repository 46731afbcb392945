"""Target modules: on a tiny model of each architecture they are all linear layers but the head."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.errors import ConfigurationError
from sentinel.resources import recipe_names
from trainer.finetune.families import FAMILIES, linear_layers, resolve
from trainer.finetune.recipe import Lora, load_recipe

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OTHER: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gemma": {**SMALL, "head_dim": 8},
    "gemma2": {**SMALL, "head_dim": 8},
    "qwen3": {**SMALL, "head_dim": 8},
}  # fmt: skip
LAYERS = {"phi3": 8, "phi": 12, "gpt2": 8}
"""Linear layers of two blocks; the gated families have 14."""


def model_of(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **OTHER.get(family, SMALL))
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_auto_meets_every_linear_layer_but_the_head(family: str) -> None:
    model = model_of(family)
    targets = resolve(model, Lora())
    head = "lm_head"
    assert set(targets.layers) == set(linear_layers(model)) - {head}
    assert len(targets.layers) == LAYERS.get(family, 14)
    assert targets.fan_in_fan_out is (family == "gpt2")
    assert targets.names == tuple(sorted(FAMILIES[family]))


GATED = frozenset(
    {
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    }
)
EXPECTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "gemma2"), GATED),
    "phi3": frozenset({"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}),
    "phi": frozenset(
        {
            *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"),
            *("mlp.fc1", "mlp.fc2"),
        }
    ),
    "gpt2": frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
}
"""Of the named families, every linear layer of a block, as its architecture has it. Qwen 2.5 is a qwen2."""


@pytest.mark.parametrize("family", sorted(EXPECTED))
def test_the_layers_are_those_of_the_architecture(family: str) -> None:
    blocks = "transformer.h" if family == "gpt2" else "model.layers"
    wanted = {f"{blocks}.{block}.{layer}" for block in range(2) for layer in EXPECTED[family]}
    assert set(resolve(model_of(family), Lora()).layers) == wanted


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_names_layers_of_its_family(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.family is None:
        assert recipe.lora.target_modules == "auto"
        return
    targets = resolve(model_of(recipe.family), recipe.lora)
    assert len(targets.layers) == LAYERS.get(recipe.family, 14)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_peft_puts_factors_on_exactly_these_layers(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = model_of(family)
    targets = resolve(model, Lora())
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=list(targets.names), fan_in_fan_out=targets.fan_in_fan_out)
    )
    found = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, weight in adapted.named_parameters()
        if weight.requires_grad and ".lora_A." in name
    }
    assert found == set(targets.layers)


def test_a_name_that_meets_no_layer_is_an_error() -> None:
    with pytest.raises(
        ConfigurationError, match=r"q_proj met no linear layer of this phi3 \(it has down_proj"
    ):
        resolve(model_of("phi3"), Lora(target_modules=("q_proj", "o_proj")))


def test_the_head_is_no_target() -> None:
    with pytest.raises(ConfigurationError, match="lm_head met no linear layer"):
        resolve(model_of("llama"), Lora(target_modules=("lm_head",)))


def test_an_unknown_family_needs_names() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "gpt_neox",
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    with pytest.raises(ConfigurationError, match=r"gpt_neox: set lora\.target_modules to some of dense"):
        resolve(model, Lora())
    assert resolve(model, Lora(target_modules=("query_key_value",))).names == ("query_key_value",)
