"""What a run's process said and how it ended, in words; the command that works on a run."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

import pytest

from sentinel.command_line import Invocation
from trainer.commands.worker import run_command
from trainer.process import last_words, spoken, tail_of
from trainer.run_directory import folder_of

RUN = UUID("0190f3c2-7d3a-7c61-9d7e-3f0a5c1d2e4b")


def test_the_tail_of_a_log_is_bounded_and_shows_what_stands_last_on_a_line(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert tail_of(log) == ""
    log.write_bytes(b"x" * 50_000 + b"\nstep 1\rstep 2\rstep 3\n\xff end\r\n")
    tail = tail_of(log)
    assert len(tail) < 17_000
    assert tail.endswith("\nstep 3\n\ufffd end\n")


@pytest.mark.parametrize(
    ("tail", "words"), [("", ""), ("one\ntwo\n\n  \n", "two"), ("\n", ""), ("  padded  ", "padded")]
)
def test_last_words(tail: str, words: str) -> None:
    assert last_words(tail) == words


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit status 0"),
        (78, "exit status 78"),
        (-15, "killed by SIGTERM"),
        (-9, "killed by SIGKILL, perhaps for lack of memory"),
        (-99, "killed by signal 99"),
    ],
)
def test_an_exit_status_in_words(status: int, text: str) -> None:
    assert spoken(status) == text


@pytest.mark.parametrize(
    ("served_model", "name"),
    [("main", "main-0190f3c2"), ("../a b/c", "_a_b_c-0190f3c2"), ("..", "_-0190f3c2"), ("", "_-0190f3c2")],
)
def test_the_folder_of_a_run_is_a_folder_of_runs(tmp_path: Path, served_model: str, name: str) -> None:
    folder = folder_of(tmp_path, served_model, RUN)
    assert (folder.parent, folder.name) == (tmp_path, name)


def test_a_run_gets_the_options_of_its_trainer() -> None:
    command = run_command(Invocation(Path("/etc/site.yaml"), ("a.b=c", "d.e=f"), debug=True))(RUN)
    assert command == [
        sys.executable, "-m", "daemon.cli", "--config", "/etc/site.yaml", "--set", "a.b=c", "--set", "d.e=f",
        "--debug", "train", "run", "--run-id", str(RUN),
    ]  # fmt: skip
    assert run_command(Invocation())(RUN)[3:] == ["train", "run", "--run-id", str(RUN)]
