"""The folder of one run: locked against a second process, with marks that make each step resumable.

runs/<run>/run.lock  run.json  events.jsonl  steps/<step>.json  dataset/  finetune/  adapter/  evaluation/  gate/
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import orjson

from sentinel.clock import Clock
from sentinel.errors import CommandError

LOCK: Final = "run.lock"
LOG: Final = "run.log"
"""What the run's process wrote, all attempts after one another."""
FOLDER_MODE: Final = 0o750
FILE_MASK: Final = 0o027
"""As the trainer's unit has it. Prompts and answers are in a run's files, so others read nothing; the group may, since
the engine that evaluates a candidate loads it from there."""


def folder_of(runs_dir: Path, served_model: str, run_id: UUID) -> Path:
    """Where the files of a run are."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", served_model).lstrip(".") or "_"
    return runs_dir / f"{name}-{str(run_id)[:8]}"


@contextmanager
def group_readable() -> Iterator[None]:
    """What the process writes in the block is for its group and nobody else, whatever the shell's umask is."""
    before = os.umask(FILE_MASK)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(path: Path) -> None:
    """Create a run's folder, closed to others, where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        return
    # A narrow umask would keep the group out.
    path.chmod(FOLDER_MODE)


class RunDirectory:
    """One run's files. Make it with `hold`, which takes the lock before anything is written."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    @classmethod
    @contextmanager
    def hold(cls, path: Path, clock: Clock) -> Iterator[Self]:
        """Create the folder where it is missing and lock it until the block ends.

        The lock is the kernel's: it ends with the process, however that ends.

        Raises:
            CommandError: another process works in it.
        """
        make_folder(path)
        with (path / LOCK).open("a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(
                    f"another process works in {path}; wait for it, or cancel its run"
                ) from None
            yield cls(path, clock)

    def claim(self, run_id: UUID) -> None:
        """Say whose folder it is; its name holds only the beginning of the id.

        Raises:
            CommandError: it is another run's, whose marks would pass for this one's.
        """
        known = self.path / "run.json"
        if not known.exists():
            self.write(known.name, {"run_id": str(run_id)})
        elif orjson.loads(known.read_bytes())["run_id"] != str(run_id):
            raise CommandError(
                f"{self.path} is the folder of another run: move it away, or start another run"
            )

    def folder(self, name: str) -> Path:
        """A step's own folder, made where it is missing."""
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def event(self, action: str, **fields: object) -> None:
        """Append a line to ``events.jsonl``: when, what, and its fields."""
        line = orjson.dumps({"ts": self._clock.now().isoformat(), "action": action, **fields}, default=str)
        with (self.path / "events.jsonl").open("ab") as events:
            events.write(line + b"\n")

    def write(self, name: str, value: Any) -> Path:
        """Write JSON at once or not at all: a reader never sees half of it."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str))
        return target

    def finished(self, step: str) -> Any | None:
        """What the step ended with when it was done before, else None."""
        mark = self.path / "steps" / f"{step}.json"
        return orjson.loads(mark.read_bytes()) if mark.exists() else None

    def finish(self, step: str, result: Any) -> None:
        """Mark the step as done; it is not done again when the run is resumed."""
        self.write(f"steps/{step}.json", result)
        self.event("finished", step=step)


def replace_file(target: Path, content: bytes) -> None:
    """Replace a file's content, on disk before its name changes hands."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
