"""Which adapters evaluations have on a server, in files that outlive a killed process.

Loading is the one thing that an evaluation leaves outside its folder: without a note a killed one would occupy a slot
of the engine until that is restarted. Every evaluation writes down what it loads, in a file that it keeps locked; a
file that nobody locks is a dead one's, and what it names is unloaded before anything else is loaded.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Self
from uuid import uuid4

FOLDER: Final = "evaluation-loaded"
"""Under ``runs_dir``."""

_ENDING: Final = ".names"


class LoadedNote:
    """One evaluation's note: the server's address, then a name on each line. Make it with `hold`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    @classmethod
    @contextmanager
    def hold(cls, folder: Path, url: str) -> Iterator[Self]:
        """A note of this process, which counts as alive until the block ends. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{uuid4().hex}{_ENDING}"
        # Locked before it has its name: the lock is the file's, and nobody may take it for a dead one's in between.
        unnamed = path.with_suffix(".new")
        with unnamed.open("wb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{url}\n".encode())
            unnamed.rename(path)
            yield cls(path, file)

    def add(self, name: str) -> None:
        """Before it is loaded: a name too many does no harm, one too few stays on the server."""
        self._file.write(f"{name}\n".encode())

    def forget(self) -> None:
        """All of it is unloaded."""
        self._path.unlink(missing_ok=True)


class LeftBehind:
    """What ended evaluations left on one server. Make it with `find`."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._paths: list[Path] = []

    @classmethod
    @contextmanager
    def find(cls, folder: Path, url: str) -> Iterator[Self]:
        """Take the notes about ``url`` that nobody holds, for as long as the block lasts."""
        found = cls()
        with ExitStack() as taken:
            for path in sorted(folder.glob(f"*{_ENDING}")):
                file = _take(path)
                if file is None:
                    continue
                taken.enter_context(file)
                address, *names = file.read().decode().splitlines() or [""]
                if address == url:
                    found.names.update(names)
                    found._paths.append(path)
            yield found

    def forget(self) -> None:
        """All of it is unloaded."""
        for path in self._paths:
            # Another user's: to unload once more does no harm.
            with suppress(PermissionError):
                path.unlink(missing_ok=True)


def _take(path: Path) -> IO[bytes] | None:
    """The note, locked; None where its evaluation is at work, it was cleaned up just now, or is not for us."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, PermissionError):
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if os.fstat(file.fileno()).st_nlink == 0:
        file.close()
        return None
    return file
