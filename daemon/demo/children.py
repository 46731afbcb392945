"""The product's own commands as children of the demonstration, which end with it however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Self

from sentinel.embedded.tether import MINIMAL_ENVIRONMENT, TetheredProcess
from sentinel.errors import UnavailableError

STOP_LIMIT_S = 20.0


class Child:
    """One ``sentinel`` command with its log."""

    def __init__(self, name: str, arguments: list[str], log: Path, config: Path) -> None:
        self.name = name
        self.log = log
        self._expected_to_fail = False
        command = [sys.executable, "-m", "daemon.cli", "--config", str(config), *arguments]
        path = os.pathsep.join(filter(None, sys.path))
        self._process = TetheredProcess(
            command, log=self.log, env=MINIMAL_ENVIRONMENT | {"PYTHONPATH": path}, cwd=log.parent
        )

    def check(self) -> None:
        """Raises UnavailableError with the end of the log when it ended with a failure."""
        status = self._process.exit_status()
        if status not in (None, 0) and not self._expected_to_fail:
            raise UnavailableError(f"'sentinel {self.name}' ended with {status}:\n{self.tail()}")

    @property
    def ended(self) -> bool:
        """Whether it is done."""
        return self._process.exit_status() is not None

    def tail(self, characters: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:]

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after a while; idempotent."""
        await asyncio.to_thread(self._process.end, signal.SIGTERM, STOP_LIMIT_S)

    async def kill(self) -> None:
        """SIGKILL, as a crash or the kernel's memory killer would; idempotent."""
        self._expected_to_fail = True
        await asyncio.to_thread(self._process.end, signal.SIGKILL, STOP_LIMIT_S)


class Children:
    """All of them; leaving the block stops them in reverse order."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder = folder
        self._config = config
        self._started: list[Child] = []

    def start(self, name: str, *arguments: str) -> Child:
        """Start one command; started again, its log is another file."""
        times = sum(child.name == name for child in self._started)
        log = f"{name}-{times + 1}" if times else name
        child = Child(name, [name, *arguments], self._folder / f"{log}.log", self._config)
        self._started.append(child)
        return child

    def running(self, name: str) -> Child:
        """The one of that name that was started last. Raises KeyError where none was."""
        for child in reversed(self._started):
            if child.name == name:
                return child
        raise KeyError(name)

    def check(self) -> None:
        """Raises UnavailableError for any that failed."""
        for child in self._started:
            child.check()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in reversed(self._started):
            await child.stop()
