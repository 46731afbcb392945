"""Two scripted replicas, the tables, and connections as the trainer has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sentinel.settings import Settings
from tests.integration.promotion.stage import Stage, settings_of
from tests.integration.serving.scripted_replica import ScriptedReplica
from trainer.changes import Connect, connections


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
