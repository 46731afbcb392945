"""What a killed evaluation had loaded is unloaded by the next one; what others loaded stays."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.evaluation.conftest import SHORT, Evaluate
from tests.integration.evaluation.personas import Personas
from trainer.evaluation.loaded import FOLDER, LoadedNote

ROOT = Path(__file__).resolve().parents[3]
SECTION: dict[str, Any] = {"primary": "labels", "utility": "grammar", "sets": SHORT, "max_tokens": 48}


async def killed(personas: Personas, runs_dir: Path, out: Path, candidate: str) -> None:
    """An evaluation that dies after 30 answers, of 80."""
    made = {"runs_dir": str(runs_dir), "evaluation": {"server_url": personas.url, **SECTION}}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.evaluation.killed"),
        *(orjson.dumps(made).decode(), str(out), candidate, "30"),
        cwd=ROOT,
    )
    assert await asyncio.wait_for(process.wait(), 240) == -signal.SIGKILL


async def test_the_resumed_run_loads_its_candidate_anew_and_unloads_it(
    measure: Evaluate, personas: Personas, tmp_path: Path
) -> None:
    personas.loaded["theirs"] = "echo"
    await killed(personas, tmp_path, tmp_path / "e", "perfect")
    assert personas.loaded == {"theirs": "echo", "tiny-perfect": "perfect"}
    assert personas.asked.total() >= 30
    await measure("perfect", out=tmp_path / "e")
    assert personas.moves == ["load tiny-perfect", "unload tiny-perfect"] * 2
    assert personas.loaded == {"theirs": "echo"}
    assert list((tmp_path / FOLDER).iterdir()) == []


async def test_the_next_run_unloads_what_a_cancelled_one_left(
    measure: Evaluate, personas: Personas, tmp_path: Path
) -> None:
    await killed(personas, tmp_path, tmp_path / "e", "answer-all")
    await measure("perfect")
    moves = ["load tiny-answer-all", "unload tiny-answer-all", "load tiny-perfect", "unload tiny-perfect"]
    assert personas.moves == moves


async def test_what_an_evaluation_at_work_has_loaded_stays(
    measure: Evaluate, personas: Personas, tmp_path: Path
) -> None:
    personas.loaded["tiny-answer-all"] = "answer-all"
    with LoadedNote.hold(tmp_path / FOLDER, personas.url) as note:
        note.add("tiny-answer-all")
        await measure("perfect")
    assert personas.moves == ["load tiny-perfect", "unload tiny-perfect"]
    await measure("perfect")
    assert personas.loaded == {}


@pytest.mark.parametrize("replica", [True, False])
async def test_only_a_replica_keeps_what_is_in_service(
    measure: Evaluate, personas: Personas, tmp_path: Path, replica: bool
) -> None:
    personas.loaded |= {"tiny-answer-all": "answer-all", "tiny-echo": "echo"}
    with LoadedNote.hold(tmp_path / FOLDER, personas.url) as note:
        note.add("tiny-answer-all")
        note.add("tiny-echo")
    model = {"public_name": "chat", "base": "base", "replicas": [f"{personas.url}/v1"] if replica else []}
    await measure("perfect", incumbent="answer-all", served_models={"tiny": model})
    assert personas.loaded == ({"tiny-answer-all": "answer-all"} if replica else {})
    assert "unload tiny-echo" in personas.moves


async def test_a_server_that_does_not_unload_now_is_asked_by_the_next_one(
    measure: Evaluate, personas: Personas, tmp_path: Path
) -> None:
    personas.drops_unloads = True
    await measure("perfect")
    assert personas.loaded == {"tiny-perfect": "perfect"}
    personas.drops_unloads = False
    await measure("answer-all")
    assert personas.loaded == {}
    assert list((tmp_path / FOLDER).iterdir()) == []


async def test_where_nothing_can_be_noted_it_is_measured_all_the_same(
    measure: Evaluate, personas: Personas, tmp_path: Path
) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    await measure("perfect")
    assert personas.moves == ["load tiny-perfect", "unload tiny-perfect"]
