"""One run in two processes by `accelerate launch` and the ready configuration; gloo stands in for the GPUs' NCCL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tiny_pairs
from benchmarks.tiny_pairs import TinyData
from sentinel.resources import data_path

RECIPE = """
family: llama
max_length: 128
lora: {rank: 4, alpha: 8}
optimizer: {learning_rate: 2.0e-3, batch_size: 8, epochs: 1, warmup_steps: 1}
checkpoints: {every: 2, prompts: 4, max_new_tokens: 8}
hardware: {device: cpu}
"""


@pytest.mark.slow
def test_two_processes_make_one_adapter(data: TinyData, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    out = tmp_path / "run"
    config = data_path("configs", "accelerate", "ddp.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    # A free port instead of the usual one; the recipe's device keeps the processes off GPUs that there may be.
    launcher += ["--main_process_port", "0", "--num_processes", "2", "-m", "daemon.cli"]
    arguments = ["--dataset", str(data.folder), "--base", str(tiny_pairs.CHAT), "--out", str(out)]
    done = subprocess.run(
        [*launcher, "train", "finetune", *arguments, "--recipe", str(tmp_path / "recipe.yaml")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # Only the first process speaks and writes.
    assert done.stdout.count("sha256") == 2
    events = [json.loads(line) for line in (out / "events.jsonl").read_bytes().splitlines()]
    assert [one["action"] for one in events].count("started") == 1
    manifest = json.loads((out / "manifest.json").read_bytes())
    # Each process takes half of the rows, eight at a time.
    assert manifest["steps"] == -(-data.rows["train"] // 16)
    assert manifest["base_sha256"]
    assert (out / "adapter" / "adapter_model.safetensors").exists()
