"""Folders of runs: one for each, with what belongs into it, and closed to others whoever starts the run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import UUID, uuid4

import orjson
import pytest
from typer.testing import CliRunner

from daemon.cli import app
from sentinel.clock import SystemClock
from sentinel.errors import CommandError
from trainer import execution, worker
from trainer.finetune.records import ENVIRONMENT, EVENTS, METRICS, SAMPLES, SNAPSHOT, Records, environment
from trainer.run_directory import FILE_MASK, RunDirectory, folder_of, group_readable

RUNS = 50
ROOT = Path(__file__).resolve().parents[3]


def test_fifty_runs_at_once_have_fifty_folders_with_their_records(tmp_path: Path) -> None:
    clock, ready, made_in = SystemClock(), Barrier(RUNS), environment("cpu", 1)

    def begin(number: int) -> Path:
        run_id = uuid4()
        ready.wait(30)
        with RunDirectory.hold(folder_of(tmp_path / "runs", "chat", run_id), clock) as directory:
            directory.claim(run_id)
            directory.event("attempt", number=number)
            records = Records(directory.folder("finetune"), clock)
            records.event("started", number=number)
            records.metrics(1, {"loss": number})
            records.write(SNAPSHOT, b"seed: 1\n")
            records.write(ENVIRONMENT, orjson.dumps(made_in))
            records.write("manifest.json", orjson.dumps({"number": number}))
            records.samples(1, (), (), ())
            return directory.path

    with ThreadPoolExecutor(RUNS) as pool:
        folders = list(pool.map(begin, range(RUNS)))
    assert len(set(folders)) == len(list((tmp_path / "runs").iterdir())) == RUNS
    for number, folder in enumerate(folders):
        made = folder / "finetune"
        assert {path.name for path in made.iterdir()} == {
            "manifest.json", SNAPSHOT, ENVIRONMENT, METRICS, EVENTS, SAMPLES,
        }  # fmt: skip
        assert orjson.loads((made / "manifest.json").read_bytes()) == {"number": number}
        for path in (folder / EVENTS, made / EVENTS):
            (event,) = [orjson.loads(line) for line in path.read_bytes().splitlines()]
            assert event["number"] == number
            assert clock.now().isoformat()[:4] == event["ts"][:4]
    assert re.fullmatch("[0-9a-f]{12}|nogit", str(made_in["git"]))


def test_a_folder_has_one_process_and_one_run(tmp_path: Path) -> None:
    one, other = UUID(int=1 << 64), UUID(int=2 << 64)
    folder = folder_of(tmp_path, "chat", one)
    assert folder == folder_of(tmp_path, "chat", other), "their ids begin alike"
    with RunDirectory.hold(folder, SystemClock()) as directory:
        directory.claim(one)
        with pytest.raises(CommandError, match="another process"), RunDirectory.hold(folder, SystemClock()):
            pass
    with RunDirectory.hold(folder, SystemClock()) as directory:
        directory.claim(one)
        with pytest.raises(CommandError, match="another run"):
            directory.claim(other)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What a shell may have."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_for_its_group_and_nobody_else(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "chat-1"
    with group_readable(), RunDirectory.hold(folder, SystemClock()) as directory:
        directory.event("attempt")
        directory.finish("dataset", {})
        assert folder.stat().st_mode & 0o777 == 0o750
        assert (folder / "steps").stat().st_mode & 0o777 == 0o750
    assert modes(folder) == {0o640}
    # A command that writes into a folder of its own keeps to the shell's umask, behind a closed door.
    with RunDirectory.hold(tmp_path / "mine", SystemClock()):
        assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("command", [["train", "run", "--run-id", str(uuid4())], ["trainer"]])
def test_a_run_by_hand_writes_as_the_service_does(
    command: list[str], umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(*_: object) -> str:
        (tmp_path / "written").write_text("a prompt")
        return "fail"

    monkeypatch.setattr(execution, "execute", write)
    monkeypatch.setattr(worker.Worker, "run", write)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    assert modes(tmp_path) == {0o640}
    assert os.umask(umask) == umask


def test_the_unit_has_the_same_mask() -> None:
    unit = (ROOT / "configs" / "systemd" / "sentinel-trainer.service").read_text()
    assert f"\nUMask=0{FILE_MASK:03o}\n" in unit
