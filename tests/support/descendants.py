"""Which processes descended from a command, and which of them outlived it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import psutil

from tests.support.waiting import wait_until


class Descendants:
    """All that were seen under one process, at any depth; process ids that others reused are told apart."""

    def __init__(self, pid: int) -> None:
        self._root = pid
        self._seen: dict[psutil.Process, str] = {}
        self._children: set[psutil.Process] = set()

    def look(self) -> list[str]:
        """Note those that live now; their command lines."""
        living = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._root).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    # The shell of a tether becomes the program itself: what counts is the newest line. One that is
                    # about to end has none any more.
                    self._seen[process] = " ".join(process.cmdline()) or self._seen.get(process, "")
                    living.append(self._seen[process])
                    if process.ppid() == self._root:
                        self._children.add(process)
        return living

    def named(self, part: str) -> list[str]:
        """Command lines seen that contain ``part``."""
        return [line for line in self._seen.values() if part in line]

    def children(self, part: str) -> list[psutil.Process]:
        """Its own children that live now, with ``part`` in the command line."""
        self.look()
        return [child for child in self._children if part in self._seen[child] and _lives(child)]

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look again and again while the block runs."""
        looking = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look_on(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(0.3)

    async def assert_gone(self) -> None:
        """Call it when the process has ended. Raises AssertionError for what it left behind.

        Its own children it must have waited for. What is below them may still be on its way out: the shells that
        watch over a child for the death of its owner end a moment after.
        """
        if left := self._left(self._children):
            raise AssertionError(f"not waited for: {left}")
        try:
            await wait_until(lambda: not self._left(self._seen), timeout=60, interval=0.1)
        except AssertionError:
            raise AssertionError(f"left behind: {self._left(self._seen)}") from None

    def _left(self, processes: Iterable[psutil.Process]) -> list[str]:
        return [self._seen[process] for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    # In a container without an init nobody collects an orphan: it stays a zombie, and holds nothing.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
