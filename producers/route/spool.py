"""Events on disk while Kafka is away: segments of lines, bounded in bytes, drained oldest first.

A segment is removed after everything in it was acknowledged: a crash in between sends it again, which the ids of
the events make harmless. Files are for their owner only, since they hold what people wrote.

All methods block; call them in a thread, one at a time. A lock on the folder keeps a second process out, which
would send and remove the same segments.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SEGMENT_BYTES: Final = 4 * 1024 * 1024
_SUFFIX: Final = ".events.jsonl"


class Spool:
    """One folder, for one process at a time."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: dict[Path, int] = {}
        self._next = 0
        self._open: Path | None = None
        self._lock: int | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self._sizes.values())

    def open(self) -> None:
        """Make the folder, and find what an earlier process left.

        Raises OSError, BlockingIOError where another process has the folder.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(error.errno, "another process has it") from error
            raise
        self._lock = lock
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            self._sizes[path] = path.stat().st_size
            self._next = max(self._next, int(path.name.removesuffix(_SUFFIX)) + 1)

    def close(self) -> None:
        """Let another process have the folder; idempotent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def append(self, lines: Sequence[bytes]) -> int:
        """Write as many of ``lines`` (without line ends) as there is room for; returns how many. Raises OSError."""
        room = self._max_bytes - self.size
        taken = 0
        data = bytearray()
        for line in lines:
            if len(data) + len(line) + 1 > room:
                break
            data += line
            data += b"\n"
            taken += 1
        if not taken:
            return 0
        path = self._open
        if path is None or self._sizes[path] >= _SEGMENT_BYTES:
            path = self._open = self._folder / f"{self._next:012d}{_SUFFIX}"
            self._next += 1
            self._sizes[path] = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        before = self._sizes[path]
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        except OSError:
            # A full disk leaves half a line, to which the next one would be joined.
            os.ftruncate(descriptor, before)
            raise
        finally:
            os.close(descriptor)
        self._sizes[path] = before + len(data)
        return taken

    def oldest(self) -> tuple[Path, list[bytes]] | None:
        """The oldest segment and its complete lines, None for an empty spool. Raises OSError."""
        path = min(self._sizes, default=None)
        if path is None:
            return None
        if path == self._open:
            self._open = None
        whole = path.read_bytes()
        # A crash while writing leaves half a line at the end.
        return path, [line for line in whole[: whole.rfind(b"\n") + 1].split(b"\n") if line]

    def remove(self, path: Path) -> None:
        """Forget a segment whose events have arrived. Raises OSError."""
        path.unlink(missing_ok=True)
        self._sizes.pop(path, None)


def _write(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
