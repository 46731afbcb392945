"""A real adapter on the embedded server: loaded, asked, judged by the second tiny guard, unloaded; and the commands."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from typer.testing import CliRunner

from daemon.cli import app
from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.serving_replica import ReplicaClient, ReplicaOptions
from sentinel.settings import Settings
from sentinel.tiny.artefacts import Model, shipped
from sentinel.tiny.evaluation_sets import benign
from trainer.evaluation.plan import EvaluationPlan, Subject
from trainer.evaluation.run import evaluate, read_evidence
from trainer.evaluation.sets import load_sets
from trainer.evidence import ArmName
from trainer.reporting import silent


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
    beside = tmp_path / "beside.json"
    status, said = await asyncio.to_thread(sentinel, *compare, "--json", "--out", str(beside))
    assert status == 0, said
    written = json.loads(beside.read_text())
    assert written == json.loads(said)
    for end, folder in (("first", out), ("second", tmp_path / "two")):
        sha256 = hashlib.sha256((folder / "evidence.json").read_bytes()).hexdigest()
        assert written[end] == {"folder": str(folder), "evidence_sha256": sha256}
    compared = written["summary"]["compared"]
    assert {one["against"] for one in compared} == {"incumbent"}
    assert all(one["test"]["first_only"] == one["test"]["second_only"] == 0 for one in compared)
    status, said = await asyncio.to_thread(sentinel, *compare, "--strict")
    assert status == 1, said


async def test_perplexity_is_what_the_model_itself_gives_to_the_references(
    chat: ThreadedModelServer, adapter: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    from trainer.tiny.answering import load

    prompts = benign()[:40:8]
    lines = [{"prompt": one.text, "reference": one.answer} for one in prompts]
    (tmp_path / "utility.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = {
        "server_url": chat.url, "primary": "labels", "utility": "exact", "max_tokens": 16, "perplexity": True,
        "sets": [
            {"name": "h", "kind": "harmful", "builtin": "harmful-20"},
            {"name": "u", "kind": "utility", "path": str(tmp_path / "utility.jsonl")},
        ],
    }  # fmt: skip
    settings = Settings.model_validate({"runs_dir": str(tmp_path), "evaluation": section})
    plan = EvaluationPlan(
        settings=settings, served_model="tiny", run_id=UUID(int=1),
        candidate=Subject(name="tiny-noise", path=adapter, sha256="noise"), incumbent=None, base_sha256="",
        dataset_sha256="", sets=load_sets(settings),
    )  # fmt: skip
    evidence = await evaluate(plan, tmp_path / "e", report=silent)

    def perplexity(model: Any, tokenizer: Any) -> float:
        total, tokens = 0.0, 0
        for one in prompts:
            asked: str = tokenizer.apply_chat_template(
                [{"role": "user", "content": one.text}], tokenize=False, add_generation_prompt=True
            )
            start = len(tokenizer.encode(asked, add_special_tokens=False))
            ids = torch.tensor([tokenizer.encode(asked + one.answer, add_special_tokens=False)])
            with torch.no_grad():
                told = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), dim=-1)
            own = told.gather(1, ids[0, 1:, None])[start - 1 :, 0]
            total, tokens = total - float(own.sum()), tokens + len(own)
        return math.exp(total / tokens)

    found = {arm.name: arm.perplexity for arm in evidence.arms}
    model, tokenizer = load(shipped(Model.CHAT))
    wanted = {ArmName.BASE: perplexity(model, tokenizer)}
    wanted[ArmName.CANDIDATE] = perplexity(PeftModel.from_pretrained(model, str(adapter)), tokenizer)
    assert found == pytest.approx(wanted, rel=1e-3)
    assert wanted[ArmName.CANDIDATE] > 1.5 * wanted[ArmName.BASE]
    assert f"{found[ArmName.BASE]:.3f}" in (tmp_path / "e" / "report.html").read_text()


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
