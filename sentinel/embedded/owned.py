"""What every embedded server that is a child process shares: its process id, and its life in a ``with`` block."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from sentinel.embedded.tether import TetheredProcess


class OwnedServer(ABC):
    """A server that this process starts and ends; a context manager in both colours.

    ``start`` and ``stop`` block and are not thread-safe: in a running loop use ``async with``.
    """

    def __init__(self) -> None:
        self._process: TetheredProcess | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, ``None`` when it does not run."""
        process = self._process
        return process.pid if process is not None and process.exit_status() is None else None

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it serves; a running one is left alone."""

    @abstractmethod
    def stop(self) -> None:
        """End it in order, running or not."""

    def _end(self, number: int, timeout: float) -> None:
        """Send ``number``, SIGKILL after ``timeout`` seconds, and forget the process; nothing where none is."""
        process = self._process
        if process is not None:
            process.end(number, timeout)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
