"""A promotion that dies anywhere leaves a legal state behind, and the next one finishes it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import orjson
import pytest

from sentinel.settings import Settings
from sentinel.store.connections import Connect
from tests.integration.promotion.stage import MODEL, Stage, as_json
from tests.integration.serving.scripted_replica import ScriptedReplica
from trainer.promote import STEPS, promote

ROOT = Path(__file__).resolve().parents[3]
Pair = tuple[ScriptedReplica, ScriptedReplica]

STATE_AFTER = {
    "admitted": "candidate",
    "copied": "candidate",
    "loading": "loading",
    "loaded": "loading",
    "probing": "probing",
    "proven": "probing",
    "promoted": "promoted",
}


class Death(BaseException):
    """Nothing that any handler expects."""


def test_every_step_is_met() -> None:
    assert set(STATE_AFTER) == set(STEPS)


@pytest.mark.parametrize("step", STEPS)
async def test_it_dies_after(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair, step: str
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")

    def die(at: str) -> None:
        if at == step:
            raise Death

    with pytest.raises(Death):
        await promote(connect, settings, MODEL, "b", actor="test", passed=die)
    await _legal(stage, STATE_AFTER[step])
    # Meanwhile everything that was loaded may be gone.
    replicas[1].restart()
    done = await promote(connect, settings, MODEL, "b", actor="test")
    assert (done.generation, done.adapter, done.previous_adapter) == (2, "b", "a")
    await _finished(stage, settings)


@pytest.mark.parametrize("step", STEPS)
async def test_its_process_is_killed_after(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair, step: str
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.promotion.killed", as_json(stage, replicas), "b", step),
        cwd=ROOT,
    )
    assert await asyncio.wait_for(process.wait(), 180) == -signal.SIGKILL
    await _legal(stage, STATE_AFTER[step])
    assert (await promote(connect, settings, MODEL, "b", actor="test")).adapter == "b"
    await _finished(stage, settings)


async def test_a_copy_that_was_killed_half_way_is_not_taken_for_an_adapter(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    await stage.adapter("a")
    half = settings.adapters.store / ".incoming-a-x1y2"
    half.mkdir(parents=True)
    (half / "adapter_model.safetensors").write_bytes(b"hal")
    # A disk that was restored, or a hand, left something else under the name.
    (settings.adapters.store / "a").mkdir()
    (settings.adapters.store / "a" / "adapter_config.json").write_text("{}")
    (settings.adapters.store / "a" / "adapter_model.safetensors").write_bytes(b"half")
    await promote(connect, settings, MODEL, "a", actor="test")
    assert sorted(file.name for file in settings.adapters.store.iterdir()) == [".lock", "a"]
    assert (settings.adapters.store / "a" / "adapter_model.safetensors").read_bytes() == b"weights of a"


async def _legal(stage: Stage, state: str) -> None:
    """One adapter in service, and the history says the same."""
    states = await stage.states()
    assert states["b"] == state
    assert sorted(name for name, found in states.items() if found == "promoted") == [
        "b" if state == "promoted" else "a"
    ]
    history = await stage.history()
    assert history[-1][2] == ("b" if state == "promoted" else "a")
    announced = [
        orjson.loads(row[0])["generation"] for row in await stage.fetch("SELECT payload FROM outbox")
    ]
    assert sorted(announced) == [generation for generation, *_ in history]


async def _finished(stage: Stage, settings: Settings) -> None:
    assert await stage.history() == [(1, "promote", "a", None), (2, "promote", "b", "a")]
    assert await stage.states() == {"a": "superseded", "b": "promoted"}
    assert len(await stage.fetch("SELECT FROM outbox")) == 2
    assert sorted(file.name for file in settings.adapters.store.iterdir()) == [".lock", "a", "b"]
