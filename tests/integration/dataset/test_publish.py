"""Publishing, through the Hub's own client, to a Hub on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from daemon.cli import app
from sentinel.errors import CommandError, SentinelError, UnavailableError
from sentinel.manifests import DatasetManifest
from sentinel.settings import Dataset
from sentinel.tiny.prompts import Kind
from tests.integration.dataset.conftest import requests
from tests.support.fake_hub import TOKEN, FakeHub
from trainer.dataset.imported import import_dataset
from trainer.reporting import silent


def made(folder: Path, **settings: Any) -> DatasetManifest:
    lines = [
        {"prompt": one.text, "chosen": one.refusal, "rejected": one.answer, "category": one.family}
        for one in requests(Kind.HARMFUL, 20)
    ]
    lines += [
        {"prompt": one.text, "chosen": one.answer, "rejected": one.refusal}
        for one in requests(Kind.HOMONYM, 15)
    ]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return import_dataset(
        file, served_model="my bot", settings=Dataset.model_validate(settings), folder=folder / "set",
        evaluation_prompts=(), seed=1, report=silent,
    )  # fmt: skip


def run(tmp_path: Path, publication: dict[str, Any], *arguments: str) -> Result:
    config = tmp_path / "sentinel.yaml"
    config.write_text(yaml.safe_dump({"dataset": {"publication": publication}}))
    return CliRunner().invoke(
        app, ["--config", str(config), "train", "publish", str(tmp_path / "set"), *arguments]
    )


def refusal(result: Result) -> SentinelError:
    assert isinstance(result.exception, SentinelError), result.output
    return result.exception


def test_it_goes_private_under_the_configured_account(tmp_path: Path, hub: FakeHub) -> None:
    manifest = made(tmp_path)
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN, "licence": "cc-by-4.0"}
    result = run(tmp_path, settings, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["repo"] == "team/my-bot_DPO"
    repo = hub.repos["team/my-bot_DPO"]
    assert (repo["private"], repo["type"]) == (True, "dataset")
    assert set(repo["files"]) == {"README.md", "manifest.json", "train.jsonl", "validation.jsonl"}
    assert repo["files"]["train.jsonl"] == (tmp_path / "set" / "train.jsonl").read_bytes()
    card = repo["files"]["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    for text in (f"| {manifest.rows} (", "## Limitations", manifest.content_sha256, "harmful 20"):
        assert text in card
    assert str(tmp_path) not in "".join(data.decode() for data in repo["files"].values())
    # Again: the repository is there, and is committed to.
    assert run(tmp_path, settings).exit_code == 0


def test_a_dry_run_shows_everything_and_sends_nothing(tmp_path: Path, hub: FakeHub) -> None:
    made(tmp_path)
    result = run(tmp_path, {"endpoint": hub.url}, "--repo", "a/b_DPO", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["repo"], shown["private"], set(shown["files"])) == (
        "a/b_DPO",
        True,
        {"README.md", "manifest.json", "train.jsonl", "validation.jsonl"},
    )
    assert "Limitations" in shown["card"]
    text = run(tmp_path, {"endpoint": hub.url}, "--repo", "a/b_DPO", "--dry-run", "--public")
    assert "PUBLIC" in text.stdout
    assert hub.calls == []


def test_without_a_token_or_an_account_nothing_goes(tmp_path: Path, hub: FakeHub) -> None:
    made(tmp_path)
    no_token = refusal(run(tmp_path, {"account": "team", "endpoint": hub.url}))
    assert isinstance(no_token, CommandError)
    assert "token is not set" in str(no_token)
    no_account = refusal(run(tmp_path, {"endpoint": hub.url, "token": TOKEN}))
    assert "account" in str(no_account)
    assert hub.calls == []
    wrong = refusal(run(tmp_path, {"account": "team", "endpoint": hub.url, "token": "hf_wrong"}))
    assert "write access" in str(wrong)
    assert hub.repos == {}


def test_a_public_repository_is_not_taken_for_a_private_one(tmp_path: Path, hub: FakeHub) -> None:
    made(tmp_path)
    hub.repos["team/my-bot_DPO"] = {"private": False, "type": "dataset", "files": {}}
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN}
    assert "is public" in str(refusal(run(tmp_path, settings)))
    assert hub.repos["team/my-bot_DPO"]["files"] == {}
    assert run(tmp_path, settings, "--public").exit_code == 0
    assert hub.repos["team/my-bot_DPO"]["files"]


def test_a_hub_that_fails_or_is_away_is_said_so(tmp_path: Path, hub: FakeHub) -> None:
    made(tmp_path)
    hub.fail_with = 400
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN}
    assert isinstance(refusal(run(tmp_path, settings)), UnavailableError)
    away = {**settings, "endpoint": "http://127.0.0.1:9"}
    assert isinstance(refusal(run(tmp_path, away)), UnavailableError)


def test_a_changed_or_unredacted_data_set_does_not_go(tmp_path: Path, hub: FakeHub) -> None:
    made(tmp_path, redact=False)
    settings = {"account": "team", "endpoint": hub.url, "token": TOKEN}
    assert "redact: false" in str(refusal(run(tmp_path, settings)))
    assert run(tmp_path, settings, "--unredacted", "--dry-run").exit_code == 0
    with (tmp_path / "set" / "train.jsonl").open("a") as file:
        file.write("{}\n")
    assert "not what its manifest says" in str(refusal(run(tmp_path, settings, "--unredacted")))
    (tmp_path / "set" / "manifest.json").unlink()
    assert "no finished data set" in str(refusal(run(tmp_path, settings)))
    assert hub.calls == []
