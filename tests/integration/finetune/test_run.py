"""A run on the tiny chat model: what it changes, what it leaves, and that it can be stopped anywhere."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import tiny_pairs
from benchmarks.tiny_pairs import TinyData
from sentinel.errors import CommandError, ConfigurationError, TrainingError
from sentinel.tiny.artefacts import verify
from tests.integration.finetune.conftest import EVERY, STEPS, small
from trainer.evidence import ItemOutcome
from trainer.finetune import checkpoints as register
from trainer.finetune import run, running
from trainer.finetune.families import FAMILIES
from trainer.finetune.outcome import Finetuned, read_finetuned
from trainer.finetune.run import finetune
from trainer.finetune.validation import ValidationItem
from trainer.reporting import Stage, silent

Run = tuple[Path, Finetuned]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_only_the_adapter_is_made_and_the_base_is_untouched(finished: Run) -> None:
    from safetensors.torch import load_file

    folder, made = finished
    assert sorted(path.name for path in made.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    weights = load_file(made.adapter / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 4
    assert all(re.search(r"\.lora_[AB]\.weight$", name) for name in weights)
    assert all(weight.abs().max() > 0 for weight in weights.values())
    assert verify(tiny_pairs.CHAT).files["model.safetensors"] == made.base_sha256
    assert str(folder) not in (made.adapter / "adapter_config.json").read_text()


def test_held_out_margins_grow_and_the_loss_falls_below_chance(finished: Run) -> None:
    metrics = lines(finished[0] / "train_metrics.jsonl")
    margins = [one["eval_rewards/margins"] for one in metrics if "eval_loss" in one]
    losses = [one["eval_loss"] for one in metrics if "eval_loss" in one]
    training = [one["loss"] for one in metrics if "loss" in one]
    assert training[0] == pytest.approx(math.log(2), abs=1e-3)
    assert training[-1] < training[0]
    assert len(margins) == STEPS // EVERY
    assert 0 < margins[0] < margins[-1]
    assert losses[-1] < losses[0] < math.log(2)


def test_a_run_leaves_its_records(finished: Run) -> None:
    folder, made = finished
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["weights_sha256"] == made.weights_sha256
    assert manifest["adapter"] == "adapter"
    assert [manifest[key] for key in ("rank", "alpha", "dropout", "seed", "method")] == [
        4,
        8.0,
        0.0,
        3,
        "dpo",
    ]
    assert manifest["target_modules"] == sorted(FAMILIES["llama"])
    assert (manifest["base"], manifest["code_version"]) == (tiny_pairs.CHAT.name, version("sentinel-loop"))
    assert dt.datetime.fromisoformat(manifest["created_at"]) == made.created_at
    # Its figures are those of the files beside it.
    metrics = lines(folder / "train_metrics.jsonl")
    assert manifest["final_loss"] == [one["loss"] for one in metrics if "loss" in one][-1]
    held_out = {one["step"]: one["eval_loss"] for one in metrics if "eval_loss" in one}
    assert manifest["score"]["loss"] == held_out[manifest["chosen_step"]]
    assert yaml.safe_load((folder / "config_snapshot.yaml").read_text())["optimizer"]["max_steps"] == STEPS
    environment = json.loads((folder / "env.json").read_bytes())
    assert re.fullmatch("[0-9a-f]{12}|nogit", environment["git"])
    assert environment["versions"]["trl"]
    assert environment["threads"] == 1
    events = lines(folder / "events.jsonl")
    assert [one["action"] for one in events] == ["started", *["checkpoint"] * 3, "finished"]
    assert all("ts" in one for one in events)
    # Displacement, over-optimisation and length bias show in these first; their limits are in test_choosing.
    steps = [one for one in lines(folder / "train_metrics.jsonl") if "loss" in one]
    assert len(steps) == STEPS
    assert all(
        {"logps/chosen", "logps/rejected", "rewards/chosen", "rewards/margins"} <= set(one) for one in steps
    )
    assert all(one["logps/chosen"] < 0 for one in steps)
    assert all(one["length_ratio"] > 0 for one in events if one["action"] == "checkpoint")
    samples = lines(folder / "samples" / f"step-{STEPS:06d}.jsonl")
    assert len(samples) == 8
    assert {"prompt", "answer", "refused", "unsafe", "garbled"} <= set(samples[0])


def test_a_finished_run_is_not_made_again(finished: Run, data: TinyData) -> None:
    folder, made = finished
    stages: list[Stage] = []
    again = finetune(
        data.folder, tiny_pairs.CHAT, small(), folder, seed=3, grader=data.grader, report=stages.append
    )
    assert again == made
    assert [stage.detail for stage in stages] == ["done before"]
    with pytest.raises(CommandError, match="belongs to a run with another seed"):
        finetune(data.folder, tiny_pairs.CHAT, small(), folder, seed=4, grader=None, report=silent)


def frozen_sha256(model: Any) -> str:
    """Of every tensor in memory, buffers too, that is no adapter's."""
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    names = [name for name, _ in tensors]
    assert any(".lora_" in name for name in names)
    assert any(name.endswith("embed_tokens.weight") for name in names)
    for name, tensor in sorted(tensors, key=lambda one: str(one[0])):
        if ".lora_" not in name:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def test_training_changes_no_tensor_of_the_base_in_memory(
    data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = running.make_trainer
    frozen: list[str] = []
    adapters: list[float] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        trainer = make(*arguments, **named)
        train = trainer.train

        def hashed(*positional: Any, **keywords: Any) -> Any:
            for done in (False, True):
                found = train(*positional, **keywords) if done else None
                frozen.append(frozen_sha256(trainer.model))
                moved = [weight for name, weight in trainer.model.named_parameters() if ".lora_B." in name]
                adapters.append(float(sum(weight.detach().abs().sum() for weight in moved)))
            return found

        trainer.train = hashed
        return trainer

    monkeypatch.setattr(run, "make_trainer", watched)
    recipe = small(checkpoints={"every": STEPS, "prompts": 0})
    finetune(data.folder, tiny_pairs.CHAT, recipe, tmp_path, seed=3, grader=None, report=silent)
    before, after = frozen
    assert before == after
    # It did train: an adapter begins at nothing.
    assert adapters[0] == 0 < adapters[1]


def test_a_stopped_run_goes_on_and_ends_the_same(finished: Run, data: TinyData, tmp_path: Path) -> None:
    def stop(stage: Stage) -> None:
        if stage.done == EVERY + 2:
            raise KeyboardInterrupt

    arguments: tuple[Any, ...] = (data.folder, tiny_pairs.CHAT, small(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, seed=3, grader=data.grader, report=stop)
    assert not (tmp_path / "adapter").exists()
    made = finetune(*arguments, seed=3, grader=data.grader, report=silent)
    assert made.final_loss == pytest.approx(finished[1].final_loss, abs=1e-5)
    assert made.chosen_step == finished[1].chosen_step
    resumed = [one for one in lines(tmp_path / "events.jsonl") if one["action"] == "resumed"]
    assert [one["step"] for one in resumed] == [EVERY]
    steps = [one["step"] for one in lines(tmp_path / "train_metrics.jsonl") if "loss" in one]
    assert steps == list(range(1, STEPS + 1))


PROGRAM = """
import sys
from pathlib import Path
from tests.integration.finetune.conftest import small
from benchmarks import tiny_pairs
from trainer.finetune.run import finetune
def report(stage):
    if stage.done == int(sys.argv[4]):
        print("held", flush=True)
        sys.stdin.read()
made = finetune(Path(sys.argv[1]), tiny_pairs.CHAT, small(), Path(sys.argv[2]), seed=3, grader=None, report=report)
print(made.weights_sha256 if made.chosen_step == int(sys.argv[3]) else made.chosen_step, made.final_loss)
"""


def program(finished: Run, data: TinyData, out: Path, hold: int = -1) -> list[str]:
    """The same run in a process of its own, which stands still at the step ``hold``."""
    step = str(finished[1].chosen_step)
    return [sys.executable, "-c", PROGRAM, str(data.folder), str(out), step, str(hold)]


def whole(command: list[str]) -> list[str]:
    """What a run that is left alone prints, word by word."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_the_same(
    finished: Run, data: TinyData, tmp_path: Path
) -> None:
    command = program(finished, data, tmp_path, hold=EVERY + 2)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        try:
            assert killed.stdout is not None
            assert killed.stdout.readline() == b"held\n"
        finally:
            killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert [one.step for one in register.read(tmp_path)] == [EVERY]
    assert not (tmp_path / "adapter").exists()
    assert not (tmp_path / "manifest.json").exists()
    _, loss = whole(program(finished, data, tmp_path))
    assert float(loss) == pytest.approx(finished[1].final_loss, abs=1e-5)
    made = read_finetuned(tmp_path)
    assert made is not None
    assert (made.chosen_step, made.steps) == (finished[1].chosen_step, STEPS)
    resumed = [one for one in lines(tmp_path / "events.jsonl") if one["action"] == "resumed"]
    assert [one["step"] for one in resumed] == [EVERY]
    undisturbed = [one for one in lines(finished[0] / "train_metrics.jsonl") if "loss" in one]
    again = [one for one in lines(tmp_path / "train_metrics.jsonl") if "loss" in one]
    assert [one["step"] for one in again] == list(range(1, STEPS + 1))
    assert [one["loss"] for one in again] == pytest.approx([one["loss"] for one in undisturbed], abs=1e-4)


def test_the_same_seed_gives_the_same_run_in_another_process(
    finished: Run, data: TinyData, tmp_path: Path
) -> None:
    weights, _ = whole(program(finished, data, tmp_path))
    mine = [(one["step"], one["loss"]) for one in lines(finished[0] / "train_metrics.jsonl") if "loss" in one]
    theirs = [(one["step"], one["loss"]) for one in lines(tmp_path / "train_metrics.jsonl") if "loss" in one]
    assert theirs == mine
    assert weights == finished[1].weights_sha256


def test_a_loss_that_is_no_number_stops_the_run(data: TinyData, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(tiny_pairs.CHAT, base)
    weights = load_file(base / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        finetune(data.folder, base, small(), tmp_path / "run", seed=3, grader=None, report=silent)
    assert not (tmp_path / "run" / "adapter").exists()


class Scripted:
    """Says of each checkpoint in turn how many of the harmful answers were safe."""

    def __init__(self, *safe: int) -> None:
        self._safe = iter(safe)

    def __call__(self, items: Sequence[ValidationItem], answers: Sequence[str]) -> list[ItemOutcome]:
        safe = next(self._safe)
        assert all(answers)
        return [
            ItemOutcome(set="validation", item=item.item, unsafe=place >= safe, refused=place < safe)
            for place, item in enumerate(items)
        ]


def test_generations_choose_the_checkpoint_and_patience_ends_the_run(data: TinyData, tmp_path: Path) -> None:
    recipe = small(
        checkpoints={"every": 2, "prompts": 8, "max_new_tokens": 8, "batch_size": 8, "patience": 2, "keep": 1}
    )
    made = finetune(
        data.folder, tiny_pairs.CHAT, recipe, tmp_path, seed=3, grader=Scripted(2, 7, 6, 5), report=silent
    )
    assert (made.chosen_step, made.steps, made.planned_steps) == (4, 8, STEPS)
    assert made.stopped == "no better checkpoint in the last 2"
    assert made.score.safety == 7 / 8
    assert "safety 0.875" in made.why
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["checkpoint-4", "checkpoint-8"]


def test_a_run_past_its_limits_makes_no_adapter(data: TinyData, tmp_path: Path) -> None:
    recipe = small(limits={"margin": 0.01}, checkpoints={"every": STEPS, "prompts": 0})
    with pytest.raises(TrainingError, match="no checkpoint is within the limits: the reward margin is"):
        finetune(data.folder, tiny_pairs.CHAT, recipe, tmp_path, seed=3, grader=None, report=silent)
    assert not (tmp_path / "manifest.json").exists()


def test_a_base_of_another_family_is_refused(data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="for the family phi3"):
        finetune(
            data.folder, tiny_pairs.CHAT, small(family="phi3"), tmp_path, seed=3, grader=None, report=silent
        )
