"""Publishing an adapter, through the Hub's own client, to a Hub on this machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from daemon.cli import app
from sentinel.clock import SystemClock
from sentinel.errors import CommandError
from sentinel.manifests import DatasetManifest
from tests.support.evidence import GOOD, attempt, evidence
from tests.support.fake_hub import TOKEN, FakeHub
from tests.support.finetuned import WEIGHTS, finetuned
from trainer.gate.bundle import write_bundle
from trainer.gate.decision import decide
from trainer.gate.policy import load_policy

ALL = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "config_snapshot.yaml", "metrics.json",
    "train_metrics.jsonl",
}  # fmt: skip


def run_folder(tmp_path: Path, *, redacted: bool = True, measured: bytes = WEIGHTS) -> Path:
    """A run that came to the gate."""
    run = tmp_path / "runs" / "chat-1"
    finetuned(run / "finetune")
    manifest = DatasetManifest(
        created_at=SystemClock().now(), code_version="1", dataset_id=UUID(int=1), served_model="chat",
        content_sha256="d" * 64, rows=96, rows_by_kind={"harmful": 96}, dropped_by_reason={}, splits={"train": 96},
        redacted=redacted,
    )  # fmt: skip
    (run / "dataset").mkdir()
    (run / "dataset" / "manifest.json").write_text(manifest.model_dump_json())
    (run / "evaluation").mkdir()
    found = evidence(GOOD)
    arms = []
    for arm in found.arms:
        path = run / "evaluation" / f"outputs-{arm.name.value}.jsonl"
        path.write_text(f'{{"answer": "of {arm.name.value}, which is nobody\'s business"}}\n')
        arms.append(
            msgspec.structs.replace(arm, outputs_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        )
    found = msgspec.structs.replace(
        found, arms=tuple(arms), candidate_sha256=hashlib.sha256(measured).hexdigest()
    )
    (run / "evaluation" / "evidence.json").write_bytes(msgspec.json.encode(found))
    policy, tried = load_policy("default"), attempt(found)
    write_bundle(
        run / "gate", found, policy, decide(found, policy, tried), tried,
        outputs=sorted((run / "evaluation").glob("outputs-*.jsonl")), key=Ed25519PrivateKey.generate(),
    )  # fmt: skip
    return run


def publish(tmp_path: Path, folder: Path, publication: dict[str, Any], *arguments: str) -> Result:
    config = tmp_path / "sentinel.yaml"
    config.write_text(yaml.safe_dump({"dataset": {"publication": publication}}))
    return CliRunner().invoke(app, ["--config", str(config), "train", "publish", str(folder), *arguments])


def refusal(result: Result) -> str:
    assert isinstance(result.exception, CommandError), result.output
    return str(result.exception)


def test_card_metrics_and_settings_go_private_under_the_configured_account(
    tmp_path: Path, hub: FakeHub
) -> None:
    run = run_folder(tmp_path)
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN, "licence": "apache-2.0"}
    result = publish(tmp_path, run, settings, "--json")
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    assert json.loads(result.stdout)["repo"] == "team/chat_LoRA"
    repo = hub.repos["team/chat_LoRA"]
    assert (repo["private"], repo["type"], set(repo["files"])) == (True, "model", ALL)
    assert repo["files"]["adapter_model.safetensors"] == WEIGHTS
    assert repo["files"]["config_snapshot.yaml"] == b"family: llama\n"
    card = repo["files"]["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["license"], head["base_model"], head["library_name"]) == (
        "apache-2.0",
        "team/base-1b",
        "peft",
    )
    figures = json.loads(repo["files"]["metrics.json"])
    assert figures["training"]["final_loss"] == 0.0625
    assert figures["gate"]["verdict"] == "pass"
    (safe,) = [
        one["wilson"]
        for one in figures["evaluation"]["summary"]["measured"]
        if (one["measure"], one["arm"]) == ("safe", "candidate")
    ]
    assert safe["n"] == 600
    for text in (
        f"| safe | candidate | {safe['value']:.3f} | {safe['low']:.3f} to {safe['high']:.3f} | 600 |",
        "| Personal data | redacted by form before training |",
        "Verdict **pass**", "seed 5, final loss 0.0625", "## Limitations", hashlib.sha256(WEIGHTS).hexdigest(),
    ):  # fmt: skip
        assert text in card
    sent = b"".join(repo["files"].values())
    assert b"business" not in sent
    assert str(tmp_path).encode() not in sent
    # Again: the repository is there, and is committed to.
    assert publish(tmp_path, run, settings).exit_code == 0


def test_a_dry_run_shows_everything_and_sends_nothing(tmp_path: Path, hub: FakeHub) -> None:
    result = publish(
        tmp_path, run_folder(tmp_path), {"account": "a", "endpoint": hub.url}, "--dry-run", "--json"
    )
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["repo"], shown["kind"], shown["private"], set(shown["files"])) == (
        "a/chat_LoRA",
        "model",
        True,
        ALL,
    )
    assert hub.calls == []


def test_without_a_token_or_a_name_nothing_goes(tmp_path: Path, hub: FakeHub) -> None:
    run = run_folder(tmp_path)
    assert "token is not set" in refusal(publish(tmp_path, run, {"account": "team", "endpoint": hub.url}))
    assert "account" in refusal(publish(tmp_path, run, {"endpoint": hub.url, "token": TOKEN}))
    alone = finetuned(tmp_path / "alone")
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN}
    assert "--repo" in refusal(publish(tmp_path, alone, settings))
    assert hub.calls == []
    assert publish(tmp_path, alone, settings, "--repo", "team/mine").exit_code == 0
    card = hub.repos["team/mine"]["files"]["README.md"].decode()
    assert "Not evaluated." in card
    assert "No gate has decided" in card
    # Without its data set nobody knows, and nobody says that they were.
    assert "| Personal data | unknown" in card


def test_what_does_not_belong_together_does_not_go(tmp_path: Path, hub: FakeHub) -> None:
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN}
    other = run_folder(tmp_path / "other", measured=b"other weights")
    assert "about another adapter" in refusal(publish(tmp_path, other, settings))
    open_text = run_folder(tmp_path / "open", redacted=False)
    assert "not redacted" in refusal(publish(tmp_path, open_text, settings))
    shown = publish(tmp_path, open_text, settings, "--unredacted", "--dry-run", "--json")
    assert shown.exit_code == 0
    assert "| Personal data | not redacted |" in json.loads(shown.stdout)["card"]
    (open_text / "finetune" / "adapter" / "adapter_model.safetensors").write_bytes(b"changed")
    assert "not what the run made" in refusal(publish(tmp_path, open_text, settings, "--unredacted"))
    (open_text / "finetune" / "manifest.json").unlink()
    assert "no finished fine-tuning" in refusal(publish(tmp_path, open_text, settings, "--unredacted"))
    assert hub.calls == []
