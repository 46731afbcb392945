"""Several adapters as one: the weighted sum of their updates, exact, by laying their factors side by side.

With update scale_i * B_i A_i of adapter i, the sum over i of w_i * scale_i * B_i A_i is [w_1 scale_1 B_1 | …] [A_1; …]:
an adapter whose rank is the sum of the ranks. Nothing is approximated, so no singular values are cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from msgspec import Struct

from sentinel.errors import CommandError
from trainer.finetune.naming import CONFIG, WEIGHTS, adapter_sha256

ORIGIN: Final = "composed_from.json"


class Part(Struct, frozen=True):
    """An adapter and its weight in the sum; 1 is as it was trained, a negative one subtracts."""

    adapter: Path
    weight: float


def compose(parts: Sequence[Part], out: Path, *, max_rank: int) -> int:
    """Write the weighted sum of ``parts`` to ``out`` as an adapter in fp32, and beside it of what it is; its rank.

    Raises:
        CommandError: fewer than two parts, a part is no plain LoRA adapter, the rank would be above ``max_rank``,
            or ``out`` is there already.
    """
    import torch
    from safetensors.torch import load_file, save_file

    if len(parts) < 2 or out.exists():
        raise CommandError("name two adapters or more, and a folder that is not there yet")
    configs = [_config(part.adapter) for part in parts]
    rank = sum(int(config["r"]) for config in configs)
    if rank > max_rank:
        raise CommandError(f"the sum has rank {rank}, above max_lora_rank {max_rank}")
    bases = {str(config.get("base_model_name_or_path")) for config in configs}
    if len(bases) > 1:
        raise CommandError(f"the adapters are for different bases: {', '.join(sorted(bases))}")
    weights = [load_file(part.adapter / WEIGHTS) for part in parts]
    names = sorted({name for one in weights for name in one if name.endswith(".lora_A.weight")})
    made: dict[str, torch.Tensor] = {}
    for name in names:
        other = name.replace(".lora_A.", ".lora_B.")
        there = next(one for one in weights if name in one)
        wide, high = there[name].shape[1], there[other].shape[0]
        down, up = [], []
        for part, config, one in zip(parts, configs, weights, strict=True):
            own = int(config["r"])
            # A layer that one part leaves alone gets zeros from it, so that all layers have one rank.
            a, b = one.get(name, torch.zeros(own, wide)), one.get(other, torch.zeros(high, own))
            down.append(a.float())
            up.append(b.float() * (part.weight * _scale(config)))
        made[name] = torch.cat(down, dim=0).contiguous()
        made[other] = torch.cat(up, dim=1).contiguous()
    targets = sorted({name for config in configs for name in config["target_modules"]})
    config = {**configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": targets}
    out.mkdir(parents=True)
    save_file(made, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    made_from = [{"adapter_sha256": adapter_sha256(part.adapter), "weight": part.weight} for part in parts]
    origin = {"schema_version": 1, "rank": rank, "adapter_sha256": adapter_sha256(out), "parts": made_from}
    (out / ORIGIN).write_bytes(orjson.dumps(origin, option=orjson.OPT_INDENT_2))
    return rank


def _scale(config: dict[str, Any]) -> float:
    rank = int(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config(adapter: Path) -> dict[str, Any]:
    adapter_sha256(adapter)
    config: dict[str, Any] = orjson.loads((adapter / CONFIG).read_bytes())
    odd = [
        name for name in ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save") if config.get(name)
    ]
    if config.get("peft_type") != "LORA" or config.get("bias") != "none" or odd:
        raise CommandError(f"{adapter} is more than low-rank factors of linear layers")
    if not isinstance(config["target_modules"], list):
        raise CommandError(f"{adapter}: target_modules must be a list of names")
    return config
