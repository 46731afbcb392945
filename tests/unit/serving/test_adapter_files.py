"""Adapters that are refused before anything of them is loaded, each with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sentinel.embedded.model_server.adapter_files import check_adapter
from sentinel.embedded.model_server.errors import AdapterError

LINEAR = {"model.layers.0.q_proj": (8, 6), "lm_head": (20, 8)}
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "bias": "none"}
KEY = "base_model.model.model.layers.0.q_proj.lora_{}.weight"


def write(folder: Path, config: Any = CONFIG, **shapes: tuple[int, ...]) -> Path:
    """An adapter; ``shapes`` by side."""
    folder.joinpath("adapter_config.json").write_text(json.dumps(config))
    sides = shapes or {"A": (2, 6), "B": (8, 2)}
    weights = {KEY.format(side): np.zeros(shape, np.float32) for side, shape in sides.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(AdapterError) as refused:
        check_adapter(folder, LINEAR, max_rank=4)
    return refused.value.message


def test_an_adapter_that_fits(tmp_path: Path) -> None:
    check_adapter(write(tmp_path), LINEAR, max_rank=4)
    check_adapter(write(tmp_path, CONFIG | {"target_modules": "all-linear"}), LINEAR, max_rank=4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 5}, "max_lora_rank 4"),
        ({"r": 0}, "rank 0"),
        ({"r": "2"}, "rank '2'"),
        ({"rank_pattern": {"q_proj": 64}}, "rank 64"),
        ({"target_modules": ["q_proj", "c_attn"]}, "c_attn"),
        ({"target_modules": ["proj"]}, "proj"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert reason in refusal(write(tmp_path, CONFIG | change))


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"A": (2, 7), "B": (8, 2)}, "8 x 6"),
        ({"A": (2, 6), "B": (9, 2)}, "8 x 6"),
        ({"A": (2, 6), "B": (8, 3)}, "8 x 6"),
        ({"A": (2, 6)}, "two factors"),
        ({"A": (2, 6, 1), "B": (8, 2)}, "two factors"),
        ({"A": (5, 6), "B": (8, 5)}, "rank 5"),
        ({"C": (2, 6)}, "no linear layer"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    assert reason in refusal(write(tmp_path, **shapes))


def test_weights_of_another_layer(tmp_path: Path) -> None:
    write(tmp_path)
    weights = {KEY.replace("layers.0", "layers.9").format("A"): np.zeros((2, 6), np.float32)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    assert "layers.9" in refusal(tmp_path)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    assert "no adapter at" in refusal(tmp_path / "nowhere")
    assert "adapter_config.json is missing" in refusal(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text("{not json")
    assert "cannot be read" in refusal(tmp_path)
    config.write_text("[]")
    assert "cannot be read" in refusal(tmp_path)
    config.write_text(json.dumps(CONFIG))
    assert "adapter_model.safetensors is missing" in refusal(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"no header")
    assert "cannot be read" in refusal(tmp_path)
    save_file({}, weights)
    assert "is empty" in refusal(tmp_path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "pickle" in refusal(tmp_path)
