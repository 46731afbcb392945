"""What an adapter's folder must hold before PEFT is let near it: every refusal names its reason.

Only headers and settings are read; nothing of the adapter is executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sentinel.embedded.model_server.errors import AdapterError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

_REFUSED: Final = (
    "alora_invocation_tokens",
    "bias",
    "corda_config",
    "eva_config",
    "layer_replication",
    "loftq_config",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
)
"""Settings under which an adapter is more than low-rank factors of linear layers."""


def check_adapter(folder: Path, linear: Mapping[str, tuple[int, int]], *, max_rank: int) -> None:
    """Refuse what the base cannot take.

    ``linear``: name of each linear layer of the base, with its outputs and inputs.

    Raises:
        AdapterError: 404 without such a folder, 400 with the reason otherwise.
    """
    if not folder.is_dir():
        raise AdapterError(f"no adapter at {folder}", status=404, param="lora_path")
    config = _config(folder)
    # As in vLLM before the weights: who asks with settings alone learns whether the rank would be taken.
    _check_rank(config, max_rank)
    weights = folder / WEIGHTS
    if not weights.is_file():
        if any(folder.glob("adapter_model.*")):
            raise AdapterError(f"only {WEIGHTS} is read: a pickle could run code", param="lora_path")
        raise AdapterError(f"{WEIGHTS} is missing in {folder}", param="lora_path")
    _check_targets(config, linear)
    _check_weights(_shapes(weights), linear, max_rank)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise AdapterError(f"{CONFIG} is missing in {folder}", param="lora_path") from error
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterError(f"{CONFIG} cannot be read: {error}", param="lora_path") from error
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"peft_type is {config.get('peft_type')!r}, only LORA is served", param="lora_path"
        )
    for name in _REFUSED:
        if config.get(name) not in (None, False, "none", [], {}):
            raise AdapterError(f"{CONFIG}: {name} is not supported", param="lora_path")
    return config


def _check_rank(config: Mapping[str, Any], max_rank: int) -> None:
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *pattern.values()] if isinstance(pattern, dict) else [None]
    for rank in ranks:
        if not isinstance(rank, int) or rank < 1:
            raise AdapterError(f"{CONFIG}: the rank {rank!r} is no positive number", param="lora_path")
        if rank > max_rank:
            raise AdapterError(f"rank {rank} is above max_lora_rank {max_rank}", param="lora_path")


def _check_targets(config: Mapping[str, Any], linear: Mapping[str, tuple[int, int]]) -> None:
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return  # a pattern; the weights say which layers it met
    strange = [
        name for name in targets if not any(layer == name or layer.endswith(f".{name}") for layer in linear)
    ]
    if strange:
        have = ", ".join(sorted({layer.rpartition(".")[2] for layer in linear}))
        raise AdapterError(
            f"target modules {', '.join(map(str, strange))} are not in the base (it has {have})",
            param="lora_path",
        )


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{WEIGHTS} cannot be read: {error}", param="lora_path") from error


def _check_weights(
    shapes: Mapping[str, tuple[int, ...]], linear: Mapping[str, tuple[int, int]], max_rank: int
) -> None:
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        match = _KEY.fullmatch(key)
        if match is None or match["module"] not in linear:
            raise AdapterError(f"{key} belongs to no linear layer of the base", param="lora_path")
        sides.setdefault(match["module"], {})[match["side"]] = shape
    if not sides:
        raise AdapterError(f"{WEIGHTS} is empty", param="lora_path")
    for module, found in sides.items():
        outputs, inputs = linear[module]
        down, up = found.get("A", ()), found.get("B", ())
        if len(down) != 2 or len(up) != 2:
            raise AdapterError(f"{module} lacks one of its two factors", param="lora_path")
        if (up[0], down[1]) != (outputs, inputs) or up[1] != down[0]:
            raise AdapterError(
                f"{module} is {outputs} x {inputs} in the base, the factors are {up} and {down}",
                param="lora_path",
            )
        if down[0] > max_rank:
            raise AdapterError(f"rank {down[0]} is above max_lora_rank {max_rank}", param="lora_path")
