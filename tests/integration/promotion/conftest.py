"""Two scripted replicas, the tables, and connections as the trainer has them."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sentinel.settings import Settings
from sentinel.store.connections import Connect
from sentinel.store.partitions import ensure_partitions
from tests.integration.promotion.stage import Stage, Traffic, settings_of
from tests.integration.serving.scripted_replica import ScriptedReplica
from trainer.connections import connections


@pytest.fixture
async def replicas() -> AsyncIterator[tuple[ScriptedReplica, ScriptedReplica]]:
    async with ScriptedReplica() as one, ScriptedReplica() as other:
        yield one, other


@pytest.fixture
def stage(database_url: str, tmp_path: Path) -> Stage:
    return Stage(database_url, tmp_path)


@pytest.fixture
def settings(stage: Stage, replicas: tuple[ScriptedReplica, ScriptedReplica]) -> Settings:
    return settings_of(stage.database_url, stage.folder / "store", replicas)


@pytest.fixture
async def connect(settings: Settings) -> AsyncIterator[Connect]:
    async with connections(settings) as opened:
        yield opened


@pytest.fixture
async def traffic(stage: Stage) -> Traffic:
    conn = await stage.connection()
    await ensure_partitions(conn, dt.datetime.now(dt.UTC).date(), 1)
    await conn.close()
    return Traffic(stage)
