"""The checkpoints of a run: which there are, whether their files are those that were written, which is the best."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from sentinel.digests import sha256_of
from trainer.finetune.validation import Score
from trainer.run_directory import replace_file

FOLDER: Final = "checkpoints"
REGISTER: Final = "checkpoints.json"


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A state from which the run can go on, and what it was worth."""

    step: int
    files: dict[str, str]
    """sha256 of every file; one that differs is not read, let alone unpickled."""
    score: Score
    stop: str | None = None
    """Why the run ended here: a limit, or patience."""
    within_limits: bool = True


def folder_of(run: Path, step: int) -> Path:
    """Where the trainer writes a step's checkpoint."""
    return run / FOLDER / f"checkpoint-{step}"


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder, by its path within."""
    return {
        str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def write(run: Path, checkpoints: Sequence[Checkpoint]) -> None:
    """Replace the register, at once or not at all."""
    replace_file(run / REGISTER, msgspec.json.format(msgspec.json.encode(list(checkpoints))) + b"\n")


def read(run: Path) -> list[Checkpoint]:
    """The register, oldest first; empty where there is none."""
    path = run / REGISTER
    return msgspec.json.decode(path.read_bytes(), type=list[Checkpoint]) if path.exists() else []


def intact(run: Path, checkpoint: Checkpoint) -> bool:
    """Whether its folder holds exactly the files that were written."""
    folder = folder_of(run, checkpoint.step)
    return folder.is_dir() and not folder.is_symlink() and digest(folder) == checkpoint.files


def resumable(run: Path, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The register up to the latest checkpoint whose files are intact; all later folders are removed.

    A folder without an entry is half written, or somebody else's.
    """
    kept = list(checkpoints)
    while kept and not intact(run, kept[-1]):
        kept.pop()
    known = {folder_of(run, one.step) for one in kept}
    for folder in (run / FOLDER).glob("checkpoint-*"):
        if folder not in known:
            _remove(folder)
    return kept


def best(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The one whose answers were worth most; None where all broke a limit.

    Within a single answer's worth of the best they are equals: among these the least validation loss decides, and
    then the later step. (One lucky prompt of eleven chose a checkpoint that had hardly learnt.)
    """
    healthy = [one for one in checkpoints if one.within_limits]
    if not healthy:
        return None
    first = max(healthy, key=lambda one: one.score.value).score
    equals = [one for one in healthy if one.score.value >= first.value - first.grain - 1e-9]
    return max(equals, key=lambda one: (one.score.rank[1], one.score.value, one.step))


def out_of_patience(checkpoints: Sequence[Checkpoint], patience: int | None) -> bool:
    """Whether the last ``patience`` checkpoints are all no better than one before them."""
    if patience is None or len(checkpoints) <= patience:
        return False
    before = max(one.score.rank for one in checkpoints[:-patience])
    return all(one.score.rank <= before for one in checkpoints[-patience:])


def prune(run: Path, checkpoints: Sequence[Checkpoint], keep: int) -> None:
    """Remove the folders of all but the best and the latest ``keep``."""
    chosen = best(checkpoints)
    kept = {one.step for one in checkpoints[-keep:]} | ({chosen.step} if chosen else set())
    for one in checkpoints:
        if one.step not in kept:
            _remove(folder_of(run, one.step))


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
