"""A file of events as a log of one partition: ``file:<sha256>``, partition 0, offset = line number.

It goes through the same loop, fence and keys as a topic: read twice, interrupted or resumed, each line counts
once. The hash of the whole file names the log, so that an edited file is another log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from consumers.source import Assigned, Bounds, LogRecord, Revoked
from consumers.tracker import Partition
from sentinel.errors import CommandError
from sentinel.events import NO_TIMESTAMP, Headers

_CHUNK = 1024 * 1024
_POLL_BYTES = 8 * 1024 * 1024
CLUSTER = "file"
"""The cluster id of every file: offsets of a file never meet those of a broker."""


class FileRecord(Struct, frozen=True, gc=False):
    """One line of the file."""

    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


class FileSource:
    """Reads lines in order. Empty lines are left out; they are holes of the log.

    ``size`` and position are in bytes, offsets in lines. Of a line longer than ``max_line_bytes`` the record holds
    one byte more than that, enough to be refused for its length; the rest is passed over unread.
    """

    def __init__(self, path: Path, *, max_line_bytes: int = 10 * 1024 * 1024) -> None:
        self._path = path
        self._max_line_bytes = max_line_bytes
        self.partition = Partition("", 0)
        self._lines = 0
        self._file: BinaryIO | None = None
        self._offset = 0
        self._places: dict[int, int] = {}
        """Where the lines of the last poll begin: the loop may take a part of them only."""

    @property
    def cluster_id(self) -> str:
        return CLUSTER

    @property
    def exhausted(self) -> bool:
        return self._file is not None and self._offset >= self._lines

    @property
    def lines(self) -> int:
        """Lines of the file, known after `start`."""
        return self._lines

    async def start(self, revoked: Revoked, assigned: Assigned) -> None:
        """Take the one partition, of the file as it was when it was opened."""
        await self.open()
        assigned(frozenset({self.partition}))

    async def open(self) -> None:
        """Hash and count the file, once; its partition is known then. Raises CommandError when it cannot be read."""
        if self._file is None:
            digest, self._lines = await asyncio.to_thread(self._scan)
            self.partition = Partition(f"file:{digest}", 0)

    def _scan(self) -> tuple[str, int]:
        digest, lines, last = hashlib.sha256(), 0, b"\n"
        try:
            # Read again through the same handle: another file under this name would not be the one hashed.
            self._file = file = self._path.open("rb")
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                last = chunk
            file.seek(0)
        except OSError as error:
            raise CommandError(f"cannot read {self._path}: {error.strerror}") from error
        return digest.hexdigest(), lines + (not last.endswith(b"\n"))

    async def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        return {partition: Bounds(0, self._lines) for partition in partitions}

    def seek(self, partition: Partition, offset: int) -> bool:
        if self._file is None:
            return False
        if offset in self._places:
            self._file.seek(self._places[offset])
            self._offset = offset
        elif offset < self._offset:
            self._file.seek(0)
            self._offset = 0
        while self._offset < offset and _line(self._file, _CHUNK):
            self._offset += 1
        return True

    async def poll(
        self, partitions: Sequence[Partition], *, max_records: int, timeout_s: float
    ) -> Mapping[Partition, Sequence[LogRecord]]:
        if self._file is None or self.exhausted:
            await asyncio.sleep(timeout_s)
            return {}
        # A file never makes its reader wait: give the other tasks their turn.
        await asyncio.sleep(0)
        records: list[LogRecord] = []
        size = 0
        self._places.clear()
        # A topic's fetch is bounded in bytes as well: lines may be of any length.
        while len(records) < max_records and size < _POLL_BYTES and self._offset < self._lines:
            self._places[self._offset] = self._file.tell()
            # Two bytes for the line's end: a line of just the allowed length is whole.
            line = _line(self._file, self._max_line_bytes + 2)
            size += len(line)
            if not line:
                raise CommandError(f"{self._path} became shorter while it was read: give the file again")
            text = line.strip(b"\r\n")
            overlong = len(line) == self._max_line_bytes + 2 and not line.endswith(b"\n")
            if overlong:
                text = line[: self._max_line_bytes + 1]
            # The last line stays a record even when it is empty, so that the end of the file is passed.
            if overlong or text.strip():
                records.append(FileRecord(self._offset, NO_TIMESTAMP, text))
            elif self._offset == self._lines - 1:
                records.append(FileRecord(self._offset, NO_TIMESTAMP, None))
            self._offset += 1
        return {partitions[0]: records}

    async def keepalive(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        return True

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        return self._lines - next_offset

    async def stop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _line(file: BinaryIO, limit: int) -> bytes:
    """The next line with its end, its first ``limit`` bytes at most; the file stands behind all of it."""
    line = part = file.readline(limit)
    while part and not part.endswith(b"\n"):
        part = file.readline(_CHUNK)
    return line
