"""`sentinel train dataset`: from a file, and from the store with the shipped models behind real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from daemon.cli import app
from sentinel.embedded.stack import ModelProcess
from sentinel.errors import CommandError
from sentinel.refusal import is_refusal
from sentinel.tiny.artefacts import Model, shipped
from sentinel.tiny.prompts import Kind
from tests.integration.dataset.conftest import Traffic, requests


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), "train", "dataset", *arguments])


def written(tmp_path: Path, settings: dict[str, Any]) -> Path:
    config = tmp_path / "sentinel.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def test_a_file_of_pairs_becomes_a_data_set(tmp_path: Path) -> None:
    lines = [
        {"prompt": one.text, "chosen": one.refusal, "rejected": one.answer}
        for one in requests(Kind.HARMFUL, 20)
    ]
    lines += [
        {"prompt": one.text, "chosen": one.answer, "rejected": one.refusal}
        for one in requests(Kind.HOW_TO, 20)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = written(tmp_path, {})
    result = run(config, "-m", "any", "--out", str(tmp_path / "out"), "--from-jsonl", str(file), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows_by_kind"] == {"harmful": 20, "twin": 20}
    shown = run(config, "-m", "any", "--out", str(tmp_path / "out"), "--from-jsonl", str(file))
    assert "harmful 20, twin 20" in " ".join(shown.stdout.split())
    file.write_text('{"prompt": "a"}\n')
    bad = run(config, "-m", "any", "--out", str(tmp_path / "out"), "--from-jsonl", str(file))
    assert isinstance(bad.exception, CommandError)
    assert "pairs.jsonl:1" in str(bad.exception)


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """Addresses of the tiny chat model and of its guard."""
    chat = ModelProcess(tmp_path / "chat", shipped(Model.CHAT), "tiny")
    guard = ModelProcess(tmp_path / "guard", shipped(Model.GUARD_A), "tiny-guard")
    try:
        chat.start()
        guard.start()
        await asyncio.gather(chat.healthy(), guard.healthy())
        yield chat.url, guard.url
    finally:
        chat.stop()
        guard.stop()


async def test_the_base_is_asked_and_the_guard_judges(
    traffic: Traffic, database_url: str, servers: tuple[str, str], tmp_path: Path
) -> None:
    await traffic.harmful(20)
    # Ten answers came from an adapter, so that the base has to answer these again.
    await traffic.adapter("main-aaaaaaaaaaaa")
    await traffic.harmful(10, seed=5, served_by="main-aaaaaaaaaaaa", generator="main-aaaaaaaaaaaa")
    await traffic.benign(Kind.HOMONYM, 20)
    await traffic.benign(Kind.HOW_TO, 20, served_by="main-aaaaaaaaaaaa")
    chat, guard = servers
    config = written(
        tmp_path,
        {
            "database": {"url": database_url},
            "served_models": {"main": {"public_name": "assistant", "base": "tiny"}},
            "guard": {"base_url": guard, "name": "tiny-guard"},
            "dataset": {"min_pairs": 15},
            "evaluation": {
                "server_url": chat,
                "sets": [{"name": "h", "kind": "harmful", "builtin": "tiny-harmful"}],
            },
        },
    )
    out = tmp_path / "out"
    result = await asyncio.to_thread(run, config, "-m", "main", "--out", str(out), "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    made = json.loads(result.stdout)
    assert made["rows_by_kind"]["twin"] == round(0.4 * made["rows_by_kind"]["harmful"])
    assert made["rows_by_kind"]["utility"] == round(0.2 * made["rows_by_kind"]["harmful"])
    assert made["replaced_rejected"] + made["dropped_by_reason"].get("off_policy", 0) >= 8
    assert made["replaced_rejected"] >= 5
    assert made["evaluation_prompts"] == 600
    rows = [json.loads(line) for name in made["files"] for line in (out / name).read_text().splitlines()]
    benign = [row for row in rows if row["kind"] != "harmful"]
    assert all(is_refusal(row["rejected"][0]["content"]) for row in benign)
    assert not any(is_refusal(row["chosen"][0]["content"]) for row in benign)
