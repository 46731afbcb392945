"""Merging an adapter into its base, and adapters into one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import tiny_pairs
from benchmarks.tiny_pairs import TinyData
from sentinel.errors import CommandError, TrainingError
from sentinel.tiny.evaluation_sets import benign
from trainer.commands.train import app
from trainer.compose import Part, compose
from trainer.finetune import run as finetune_run
from trainer.finetune.naming import adapter_name
from trainer.finetune.outcome import Finetuned
from trainer.finetune.rows import Turn
from trainer.finetune.validation import Grader, ValidationItem

Run = tuple[Path, Finetuned]


def plain(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def test_the_command_merges_and_proves_it(finished: Run, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    adapter, out = finished[1].adapter, tmp_path / "merged"
    arguments = ["merge", "--base", str(tiny_pairs.CHAT), "--adapter", str(adapter), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "adapter alone 0.16 MB, merged 3.6" in done.output
    assert "merge: 4 of 4, done" in done.stderr
    origin = json.loads((out / "merged_from.json").read_bytes())
    assert (origin["base_sha256"], origin["adapter_sha256"]) == (
        finished[1].base_sha256,
        finished[1].weights_sha256,
    )
    assert origin["max_difference"] < origin["tolerance"]
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(plain(tiny_pairs.CHAT), str(adapter))(input_ids=ids).logits
        bare = plain(tiny_pairs.CHAT)(input_ids=ids).logits
        found = plain(out)(input_ids=ids).logits
    assert (found - wanted).abs().max() < 1e-4
    assert (found - bare).abs().max() > 0.1
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, CommandError)


def test_a_merge_that_differs_is_refused(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import merge

    monkeypatch.setattr(merge, "TOLERANCE", 0.0)
    with pytest.raises(TrainingError, match="the merged model's logits differ by"):
        merge.merge(tiny_pairs.CHAT, finished[1].adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_composition_is_the_weighted_sum_of_the_updates(finished: Run, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    adapter = finished[1].adapter
    other = tmp_path / "other"
    assert compose([Part(adapter, 0.5), Part(adapter, 0.25)], other, max_rank=8) == 8
    whole = tmp_path / "whole"
    assert compose([Part(adapter, 2.0), Part(other, -1.0)], whole, max_rank=16) == 12
    name = "model.layers.1.mlp.up_proj"
    probe = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))

    def update(folder: Path) -> torch.Tensor:
        model = PeftModel.from_pretrained(plain(tiny_pairs.CHAT), str(folder))
        layer: Any = model.get_base_model().get_submodule(name)
        with torch.no_grad():
            difference: torch.Tensor = layer(probe) - layer.base_layer(probe)
        return difference

    one, two = update(adapter), update(other)
    assert (two - 0.75 * one).abs().max() < 1e-5
    assert (update(whole) - (2.0 * one - two)).abs().max() < 1e-5
    assert one.abs().max() > 0.01
    assert len(load_file(whole / "adapter_model.safetensors")) == 56
    with pytest.raises(CommandError, match="rank 12, above max_lora_rank 8"):
        compose([Part(adapter, 2.0), Part(other, -1.0)], tmp_path / "x", max_rank=8)


def test_the_command_composes_what_peft_adds_up_of_two_adapters_at_work_together(
    finished: Run, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    noise = torch.Generator().manual_seed(2)
    settings = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    strange = get_peft_model(plain(tiny_pairs.CHAT), settings)
    for parameter_name, weight in strange.named_parameters():
        if "lora_" in parameter_name:
            weight.data = torch.randn(weight.shape, generator=noise) * 0.2
    strange.save_pretrained(str(tmp_path / "strange"))
    written = tmp_path / "strange" / "adapter_config.json"
    written.write_text(written.read_text().replace(str(tiny_pairs.CHAT), tiny_pairs.CHAT.name))

    # PEFT adds the updates of all active adapters, layer by layer.
    both: Any = PeftModel.from_pretrained(
        plain(tiny_pairs.CHAT), str(finished[1].adapter), adapter_name="one"
    )
    both.load_adapter(str(tmp_path / "strange"), adapter_name="two")
    ids = torch.arange(40).reshape(2, 20)

    def logits(*active: str) -> torch.Tensor:
        both.base_model.set_adapter(list(active))
        with torch.no_grad():
            found: torch.Tensor = both(input_ids=ids).logits
        return found

    out = tmp_path / "sum"
    arguments = [f"{finished[1].adapter}=1", str(tmp_path / "strange"), "--out", str(out)]
    done = CliRunner().invoke(app, ["compose", *arguments])
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    assert "rank 7" in done.output
    parts = json.loads((out / "composed_from.json").read_bytes())["parts"]
    assert [part["weight"] for part in parts] == [1.0, 1.0]
    assert parts[0]["adapter_sha256"] == finished[1].weights_sha256 != parts[1]["adapter_sha256"]
    with torch.no_grad():
        found = PeftModel.from_pretrained(plain(tiny_pairs.CHAT), str(out))(input_ids=ids).logits
    assert (found - logits("one", "two")).abs().max() < 1e-4
    for alone in ("one", "two"):
        assert (found - logits(alone)).abs().max() > 0.1
    wrong = CliRunner().invoke(app, ["compose", f"{finished[1].adapter}=much", "x", "--out", str(out)])
    assert wrong.exit_code == 2


def test_the_finetune_command_shows_what_a_run_made(finished: Run, data: TinyData, tmp_path: Path) -> None:
    folder, made = finished
    snapshot = tmp_path / "recipe.yaml"
    snapshot.write_text((folder / "config_snapshot.yaml").read_text())
    arguments = [
        "--dataset",
        str(data.folder),
        "--base",
        str(tiny_pairs.CHAT),
        "--recipe",
        str(snapshot),
        "--seed",
        "3",
    ]
    done = CliRunner().invoke(app, ["finetune", *arguments, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert made.weights_sha256[:12] in done.output
    assert "done before" in done.output
    assert adapter_name("tiny", made.weights_sha256) == f"tiny-{made.weights_sha256[:12]}"


def test_the_finetune_command_grades_as_the_settings_say(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request, *_) = benign()
    item = ValidationItem(
        item="1", kind="utility", family="", prompt=(Turn(role="user", content=request.text),), chosen="x"
    )
    graded = []

    def capture(*_: object, grader: Grader, **__: object) -> Finetuned:
        graded.append(grader([item], ["Something else altogether is said here."])[0].useful)
        return finished[1]

    monkeypatch.setattr(finetune_run, "finetune", capture)
    arguments = ["finetune", "--dataset", "d", "--base", "b", "--recipe", "tiny"]
    for place, env in enumerate(({}, {"SENTINEL_EVALUATION__UTILITY": "grammar"})):
        done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / str(place))], env=env)
        assert done.exit_code == 0, done.output
    assert graded == [None, False], "nobody tells utility, and the tiny grammar does"
