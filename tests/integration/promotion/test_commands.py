"""Promotions by hand, with nothing running but the database and the replicas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from typer.testing import CliRunner, Result

from daemon.cli import app
from sentinel.errors import CommandError
from sentinel.jobs import JobKind, JobPayload
from sentinel.states import AdapterState
from sentinel.store.admission import PromotionRefusedError
from tests.integration.promotion.stage import MODEL, Stage
from tests.integration.serving.scripted_replica import ScriptedReplica

Pair = tuple[ScriptedReplica, ScriptedReplica]
Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def sentinel(stage: Stage, replicas: Pair, tmp_path: Path) -> Run:
    """``sentinel`` with a settings file; what it raises is raised."""
    file = tmp_path / "sentinel.yaml"
    model = {"public_name": "assistant", "base": "base", "replicas": [replica.url for replica in replicas]}
    file.write_text(
        json.dumps(
            {
                "database": {"url": stage.database_url},
                "adapters": {"store": str(stage.folder / "store")},
                "served_models": {MODEL: model},
                "promotion": {"mode": "manual", "approvals": 2},
            }
        )
    )

    async def run(*arguments: str) -> Result:
        def invoke() -> Result:
            return CliRunner().invoke(app, ["--config", str(file), *arguments])

        result = await asyncio.to_thread(invoke)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


async def test_the_way_of_an_adapter_by_hand(stage: Stage, replicas: Pair, sentinel: Run) -> None:
    run_id = uuid4()
    await stage.adapter("main-a1b2", run_id=run_id)
    with pytest.raises(PromotionRefusedError, match="0 of 2 approvals"):
        await sentinel("train", "promote", "main-a1b2")
    result = await sentinel("train", "approve", "main-a1", "--actor", "ann", "--comment", "read it")
    assert "1 of 2 approvals" in result.output
    assert await stage.fetch("SELECT payload FROM pgqueuer.pgqueuer") == []
    result = await sentinel("train", "approve", str(run_id)[:13], "--actor", "bob")
    assert "2 of 2 approvals" in result.output
    ((payload,),) = await stage.fetch("SELECT payload FROM pgqueuer.pgqueuer")
    assert msgspec.json.decode(payload, type=JobPayload) == JobPayload(
        kind=JobKind.PROMOTE, run_id=run_id, served_model=MODEL
    )

    result = await sentinel("train", "promote", str(run_id), "--actor", "ann")
    assert "main-a1b2 is in service for chat, generation 1 (before: the base)" in result.output
    assert "main-a1b2" in replicas[1].loaded
    listed = json.loads((await sentinel("train", "adapters", "--json")).stdout)
    assert [move["state"] for move in listed[0]["history"]] == [
        "candidate",
        "awaiting_approval",
        "loading",
        "probing",
        "promoted",
    ]
    table = (await sentinel("train", "adapters")).output
    assert "main-a1b2" in table

    result = await sentinel("train", "rollback", "--reason", "complaints", "--actor", "bob")
    assert "main-a1b2 is out of service for chat, generation 2; now: the base" in result.output
    with pytest.raises(CommandError, match="nothing to roll back"):
        await sentinel("train", "rollback", "-m", MODEL)
    assert await stage.fetch("SELECT actor, action, subject FROM audit_log ORDER BY id") == [
        ("ann", "adapter approve", "main-a1b2"),
        ("bob", "adapter approve", "main-a1b2"),
        ("ann", "promote", "main-a1b2"),
        ("bob", "rollback", "main-a1b2"),
    ]


async def test_rejecting_and_what_cannot_be_decided(stage: Stage, sentinel: Run) -> None:
    await stage.adapter("main-a", state=AdapterState.AWAITING_APPROVAL)
    await stage.adapter("main-b")
    with pytest.raises(CommandError, match="several adapters begin with 'main-'"):
        await sentinel("train", "reject", "main-")
    with pytest.raises(CommandError, match="no adapter begins with 'other'"):
        await sentinel("train", "approve", "other")
    result = await sentinel("train", "reject", "main-a", "--comment", "no")
    assert "main-a is rejected" in result.output
    with pytest.raises(CommandError, match="main-a is rejected: there is nothing to approve"):
        await sentinel("train", "approve", "main-a")
    assert await stage.states() == {"main-a": "rejected", "main-b": "candidate"}


async def test_freezing(stage: Stage, sentinel: Run) -> None:
    await stage.adapter("main-a")
    assert "chat is frozen" in (await sentinel("freeze", "--reason", "holidays")).output
    assert "every served model is frozen" in (await sentinel("freeze", "--all")).output
    assert "was frozen already" in (await sentinel("freeze", MODEL)).output
    with pytest.raises(CommandError, match="has no 'chta'"):
        await sentinel("freeze", "chta")
    with pytest.raises(PromotionRefusedError, match="every model is frozen"):
        await sentinel("train", "promote", "main-a", "--approve")
    assert "but every model is" in (await sentinel("unfreeze", MODEL)).output
    assert (await sentinel("unfreeze", "--all")).exit_code == 0
    with pytest.raises(CommandError, match="is not frozen"):
        await sentinel("unfreeze", "--all")
    with pytest.raises(PromotionRefusedError, match="1 of 2 approvals"):
        await sentinel("train", "promote", "main-a")
