"""Services of the demonstration are started again as systemd would, and no oftener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from daemon.demo.children import RESTARTS, Children
from sentinel.errors import UnavailableError


@pytest.fixture
def config(tmp_path: Path, free_port: int) -> Path:
    path = tmp_path / "sentinel.yaml"
    path.write_text(yaml.safe_dump({"database": {"url": f"postgresql://u@127.0.0.1:{free_port}/d"}}))
    return path


async def _until(children: Children, done: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not done():
            children.check()
            await asyncio.sleep(0.05)


async def test_a_service_that_fails_is_started_again_and_then_given_up(config: Path) -> None:
    async with Children(config.parent, config) as children:
        children.start("run", service=True)
        with pytest.raises(UnavailableError, match=r"'sentinel run' ended with 1:"):
            await _until(children, lambda: False)
        assert children.restarts == RESTARTS
    assert len(list(config.parent.glob("run*.log"))) == 1 + RESTARTS


async def test_a_wrong_configuration_is_not_tried_again(config: Path) -> None:
    config.write_text("kafka: {topic: x}\n")
    async with Children(config.parent, config) as children:
        children.start("run", service=True)
        with pytest.raises(UnavailableError, match="ended with 78"):
            await _until(children, lambda: False)
        assert children.restarts == 0


async def test_a_task_that_fails_is_not_tried_again(config: Path) -> None:
    async with Children(config.parent, config) as children:
        children.start("traffic", "--format", "no-such-format")
        with pytest.raises(UnavailableError, match="no-such-format"):
            await _until(children, lambda: False)
        assert children.restarts == 0


async def test_what_was_killed_on_purpose_is_no_failure(config: Path) -> None:
    async with Children(config.parent, config) as children:
        child = children.start("run", service=True)
        await child.kill()
        await _until(children, lambda: child.ended)
        children.check()
        assert children.restarts == 0
