"""Programs under measurement: started, frozen, thawed, stopped, and their processor time."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

STOP_GRACE = 15.0
"""Seconds a program gets after SIGTERM: a consumer commits and leaves its group in that time."""


class ProgramDiedError(RuntimeError):
    """A program under measurement ended before its work was done."""


def tree(pid: int) -> Iterator[psutil.Process]:
    """The process `pid` and all its living descendants; nothing when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)


def cpu_seconds(pid: int, without: frozenset[int] = frozenset()) -> float:
    """Processor seconds (user and system) that a process tree has used since it began.

    Descendants that have ended count through the parent that reaped them, so a tree that forks loses nothing.
    Processes in `without` are left out while they live. The kernel reports ticks of 10 ms per process, so a
    window should hold at least a second of work.
    """
    total = 0.0
    for process in tree(pid):
        if process.pid in without:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Program:
    """One subprocess in a session of its own, its output in a file.

    Use it as an asynchronous context manager: leaving it stops the whole tree, by force after `grace` seconds.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, cwd: Path | None = None, grace: float = STOP_GRACE
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._cwd = cwd
        self._grace = grace
        self._popen: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id; `RuntimeError` before the start."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._popen.pid

    def check(self) -> None:
        """Raise `ProgramDiedError` with the end of the log when the program has ended."""
        if self._popen is not None and self._popen.poll() is not None:
            raise ProgramDiedError(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")

    def tail(self, characters: int = 3000) -> str:
        """The last characters of the program's output."""
        return self.log.read_text(errors="replace")[-characters:]

    def freeze(self) -> None:
        """Stop the tree where it stands (SIGSTOP), so that work can be laid out before it begins."""
        self._signal_tree(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen tree go on (SIGCONT)."""
        self._signal_tree(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Processor seconds of the tree so far."""
        return cpu_seconds(self.pid)

    def kill(self) -> None:
        """SIGKILL to the program's whole session, at this instant."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """End the tree: SIGTERM, then SIGKILL to the session for whatever is left."""
        if self._popen is None:
            return
        if self._popen.poll() is None:
            self.thaw()
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._popen.wait, self._grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def _signal_tree(self, number: signal.Signals) -> None:
        for process in tree(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
