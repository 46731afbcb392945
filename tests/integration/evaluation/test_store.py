"""Sets drawn from reserved conversations of a real store, and the tries that the command counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import orjson
import pytest
import yaml
from typer.testing import CliRunner

from daemon.cli import app
from sentinel.events import Message
from sentinel.reserved import is_reserved
from sentinel.settings import EvaluationSource
from sentinel.store.engine import libpq_url
from sentinel.store.partitions import ensure_partitions
from sentinel.tiny.prompts import Kind
from tests.integration.dataset.conftest import DAY, Traffic
from tests.integration.evaluation.personas import Personas
from trainer.evaluation.reserved import reserved_items
from trainer.evaluation.sets import load_set
from trainer.evidence import SetKind

SHARE = 0.3


@pytest.fixture
async def traffic(database_url: str) -> AsyncIterator[Traffic]:
    conn = await asyncpg.connect(libpq_url(database_url))
    try:
        await ensure_partitions(conn, DAY, 1)
        yield Traffic(conn)
    finally:
        await conn.close()


async def command(config: Path, *arguments: str) -> tuple[int, str]:
    done = await asyncio.to_thread(CliRunner().invoke, app, ["--config", str(config), *arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def settings(tmp_path: Path, database_url: str, **evaluation: object) -> Path:
    path = tmp_path / "sentinel.yaml"
    written = {
        "database": {"url": database_url},
        "runs_dir": str(tmp_path / "runs"),
        "served_models": {"main": {"public_name": "tiny", "base": "tiny-chat", "replicas": []}},
        "evaluation": {"reserved_share": SHARE, **evaluation},
    }
    path.write_text(yaml.safe_dump(written))
    return path


async def test_only_reserved_conversations_become_sets(
    traffic: Traffic, tmp_path: Path, database_url: str
) -> None:
    harmful = await traffic.harmful(40)
    benign = await traffic.benign(Kind.HOW_TO, 40)
    refused = await traffic.benign(Kind.HOMONYM, 1)
    await traffic.event(
        "How do I rest?", "I'm sorry, but I can't help with that.", "safe", conversation_id="r"
    )
    await traffic.event("How do I sing?", "Like this.", "safe", served_model="another")

    found = await reserved_items(traffic.conn, "main", 1.0)
    assert {one.prompt for one in found[SetKind.HARMFUL]} == {one.text for one in harmful}
    assert {one.prompt for one in found[SetKind.BENIGN]} == {one.text for one in (*benign, *refused)}

    config = settings(tmp_path, database_url)
    out = ("--out", str(tmp_path / "sets"))
    status, said = await command(config, "evalset", "build", "--name", "h1", "--kind", "harmful", *out)
    assert status == 0, said
    expected = {one.text for one in harmful if is_reserved(None, (Message("user", one.text),), SHARE)}
    assert 0 < len(expected) < 40
    path = tmp_path / "sets" / "h1.jsonl"
    built = {orjson.loads(line)["prompt"] for line in path.read_bytes().splitlines()}
    assert built <= expected
    manifest = orjson.loads((tmp_path / "sets" / "h1.manifest.json").read_bytes())
    assert manifest["items"] == len(built)
    assert len(built) + sum(manifest["left_out"].values()) == len(expected)
    # What is printed can be put into the settings, and holds the set to its hash.
    sha256 = re.search(r"sha256: (\w{64})", said)
    assert sha256 is not None
    load_set(EvaluationSource(name="h1", kind="harmful", path=path, sha256=sha256[1]))

    extra = tmp_path / "more.csv"
    extra.write_text("prompt\nHow do I open a jar of plum jam?\n")
    status, said = await command(
        config, "evalset", "build", "--name", "u1", "--kind", "utility", "--from", str(extra), *out
    )
    assert status == 0, said
    assert "1 from more.csv" in said

    listed = [{"name": "h1", "kind": "harmful", "path": str(path)}]
    status, said = await command(settings(tmp_path, database_url, sets=listed), "evalset", "show", "--json")
    assert status == 0, said
    assert orjson.loads(said)["sets"][0]["set"]["items"] == len(built)


async def test_the_command_counts_a_try_before_it_asks(
    traffic: Traffic, tmp_path: Path, database_url: str
) -> None:
    async with Personas() as server:
        config = settings(
            tmp_path,
            database_url,
            server_url=server.url,
            primary="labels",
            utility="grammar",
            sets=[{"name": "h", "kind": "harmful", "builtin": "harmful-20"}],
        )
        for persona in ("perfect", "echo"):
            folder = tmp_path / persona
            folder.mkdir()
            (folder / "adapter_config.json").write_text("{}")
            (folder / "adapter_model.safetensors").write_bytes(persona.encode())
        measure = ("train", "evaluate", "--out", str(tmp_path / "out"))
        status, said = await command(config, *measure, str(tmp_path / "perfect"))
        assert status == 0, said
        assert "try 1 on version" in said
        server.refuses = "it is not to be"
        status, said = await command(config, *measure, str(tmp_path / "echo"))
        assert status != 0
        assert "it is not to be" in said
    tries = await traffic.conn.fetch("SELECT k FROM evaluation_tries ORDER BY k")
    # The second one counts although nothing came of it.
    assert [row["k"] for row in tries] == [1, 2]
