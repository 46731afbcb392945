"""Which linear layers LoRA goes to, by the base's family; resolved on the loaded model, so that no name is a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sentinel.errors import ConfigurationError

if TYPE_CHECKING:
    from trainer.finetune.recipe import Lora

_GATED: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma": _GATED,
    "gemma2": _GATED,
    # Attention and MLP each have one fused input projection.
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    # Conv1D layers: weights lie transposed. c_proj is in attention and MLP.
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}
"""All linear layers of a block, by transformers' ``model_type``; the head is left out."""


class Targets(Struct, frozen=True):
    """What LoRA is put on."""

    names: tuple[str, ...]
    """Last parts of the layers' names, sorted: PEFT's ``target_modules``."""
    layers: tuple[str, ...]
    """Full names of the layers that they meet."""
    fan_in_fan_out: bool
    """The weights lie transposed (GPT-2's Conv1D)."""


def linear_layers(model: Any) -> dict[str, str]:
    """Full name of every linear layer of a model, with the name of its class; 4-bit layers and Conv1D included."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return {
        name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, kinds)
    }


def resolve(model: Any, lora: Lora) -> Targets:
    """The layers of a loaded base that the recipe's names mean.

    Raises:
        ConfigurationError: the family is unknown and the recipe names none, or a name meets no linear layer.
    """
    layers = linear_layers(model)
    head = _head(model, layers)
    there = {name: kind for name, kind in layers.items() if name not in head}
    have = ", ".join(sorted({name.rpartition(".")[2] for name in there}))
    family = str(model.config.model_type)
    if lora.target_modules == "auto":
        if family not in FAMILIES:
            raise ConfigurationError(
                f"no layers are known for the family {family}: set lora.target_modules to some of {have}"
            )
        wanted = FAMILIES[family]
    else:
        wanted = tuple(lora.target_modules)
    met = {name: [layer for layer in there if layer == name or layer.endswith(f".{name}")] for name in wanted}
    missing = [name for name, found in met.items() if not found]
    if missing:
        raise ConfigurationError(
            f"lora.target_modules: {', '.join(missing)} met no linear layer of this {family} (it has {have})"
        )
    chosen = sorted({layer for found in met.values() for layer in found})
    transposed = {there[layer] == "Conv1D" for layer in chosen}
    if len(transposed) > 1:
        raise ConfigurationError(
            f"lora.target_modules: {', '.join(wanted)} meet both plain and transposed layers; adapt one sort"
        )
    return Targets(tuple(sorted(met)), tuple(chosen), transposed.pop())


def _head(model: Any, layers: Mapping[str, str]) -> set[str]:
    """Names of the output head, which engines do not adapt."""
    head = model.get_output_embeddings()
    return {name for name in layers if head is not None and model.get_submodule(name) is head}
