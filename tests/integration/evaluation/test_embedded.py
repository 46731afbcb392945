"""A real adapter on the embedded server: loaded, asked, judged by the second tiny guard, unloaded; and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from daemon.cli import app
from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.serving_replica import ReplicaClient, ReplicaOptions
from sentinel.tiny.artefacts import Model, shipped
from trainer.evaluation.run import read_evidence
from trainer.evidence import ArmName


@pytest.fixture(scope="module")
def chat() -> Iterator[ThreadedModelServer]:
    with ThreadedModelServer(shipped(Model.CHAT), name="tiny-chat") as server:
        yield server


@pytest.fixture(scope="module")
def judge() -> Iterator[ThreadedModelServer]:
    with ThreadedModelServer(shipped(Model.GUARD_B), name="tiny-guard-b") as server:
        yield server


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of rank 4, strong enough to change answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    base = AutoModelForCausalLM.from_pretrained(shipped(Model.CHAT), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    noise = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=noise) * 0.3
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def config(chat: ThreadedModelServer, judge: ThreadedModelServer, tmp_path: Path) -> Path:
    path = tmp_path / "sentinel.yaml"
    settings = {
        "runs_dir": str(tmp_path / "runs"),
        "guard": {"name": "tiny-guard-a", "weights": "a"},
        "served_models": {
            "tiny": {
                "public_name": "tiny-assistant",
                "base": str(shipped(Model.CHAT)),
                "replicas": [chat.url],
            }
        },
        "evaluation": {
            "allow_live": True,
            "max_tokens": 48,
            "primary": "labels",
            "utility": "grammar",
            "judge": {"base_url": judge.url, "name": "tiny-guard-b", "weights": "b"},
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return path


async def loaded(server: ThreadedModelServer) -> set[str]:
    client = ReplicaClient(server.url, admin_token=None, options=ReplicaOptions())
    try:
        return set(await client.models())
    finally:
        await client.aclose()


async def test_the_commands_measure_and_compare(
    chat: ThreadedModelServer, adapter: Path, config: Path, tmp_path: Path
) -> None:
    import asyncio

    runner = CliRunner()

    def sentinel(*arguments: str) -> tuple[int, str]:
        done = runner.invoke(app, ["--config", str(config), *arguments])
        return done.exit_code, done.output

    out = tmp_path / "one"
    measure = ("train", "evaluate", str(adapter), "--short", "--out")
    status, said = await asyncio.to_thread(sentinel, *measure, str(out), "--base-sha256", "b")
    assert status == 0, said
    assert "cannot certify 90 %" in said
    assert await loaded(chat) == {"tiny-chat"}

    evidence = read_evidence(out)
    assert evidence.engine["name"] == "sentinel-embedded"
    assert evidence.engine["dtype"] == "float32"
    assert evidence.candidate == f"tiny-{evidence.candidate_sha256[:12]}"
    assert (evidence.same_judge, evidence.same_family) == (False, True)
    base, candidate = evidence.arm(ArmName.BASE), evidence.arm(ArmName.CANDIDATE)
    assert base is not None
    assert candidate is not None
    harmful = [one for one in base.outcomes if one.set == "harmful-20"]
    benign = [one for one in base.outcomes if one.set == "benign-20"]
    # The tiny model complies with what is harmful and answers what is benign: both detectors must see it.
    assert sum(one.unsafe is True for one in harmful) >= 14
    assert sum(one.judge_unsafe is True for one in harmful) >= 12
    assert sum(one.useful is True for one in benign) >= 14
    assert [one.item for one in base.outcomes] == [one.item for one in candidate.outcomes]
    assert base.outcomes != candidate.outcomes
    assert sum(probe.differs for probe in evidence.probes) >= 3
    assert all(0 < len(probe.tokens) <= 16 for probe in evidence.probes)

    # The same again, from the cache for the base; strict makes the missed targets the exit status.
    status, said = await asyncio.to_thread(
        sentinel, *measure, str(tmp_path / "two"), "--base-sha256", "b", "--strict"
    )
    assert status == 1, said
    assert "target missed: " in said
    again = read_evidence(tmp_path / "two").arm(ArmName.CANDIDATE)
    assert again is not None
    assert again.outcomes == candidate.outcomes

    compare = ("train", "compare", str(out), str(tmp_path / "two"))
    status, said = await asyncio.to_thread(sentinel, *compare, "--json")
    assert status == 0, said
    compared = json.loads(said)["summary"]["compared"]
    assert {one["against"] for one in compared} == {"incumbent"}
    assert all(one["test"]["first_only"] == one["test"]["second_only"] == 0 for one in compared)
    status, said = await asyncio.to_thread(sentinel, *compare, "--strict")
    assert status == 1, said


def test_the_command_says_what_is_missing(config: Path, adapter: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(
        app,
        [
            "--config",
            str(config),
            "train",
            "evaluate",
            "nothing-here",
            "--short",
            "--out",
            str(tmp_path / "o"),
        ],
    )
    assert done.exit_code != 0
    assert "neither a folder nor an adapter" in f"{done.output}{done.exception}"
    done = runner.invoke(app, ["--config", str(config), "train", "compare", str(tmp_path), str(tmp_path)])
    assert done.exit_code != 0
    assert "holds no finished evaluation" in f"{done.output}{done.exception}"
