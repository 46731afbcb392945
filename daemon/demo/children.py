"""The product's own commands as children of the demonstration, which end with it however it ends.

A service that ends with a failure is started again, as its systemd unit does (Restart=on-failure, but not after
78, a wrong configuration): a part that was away for a moment ends no demonstration. Each restart is counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final, Self

from sentinel import logs
from sentinel.embedded.tether import MINIMAL_ENVIRONMENT, TetheredProcess
from sentinel.errors import EX_CONFIG, UnavailableError

_log = logs.get("daemon.demo")

STOP_LIMIT_S: Final = 20.0
RESTARTS: Final = 3
"""Restarts of all services together, after which a failure ends the demonstration."""


class Child:
    """One ``sentinel`` command with its log."""

    def __init__(
        self, name: str, arguments: list[str], log: Path, config: Path, *, service: bool = False
    ) -> None:
        """``service``: it runs until it is stopped, and may be started again."""
        self.name = name
        self.log = log
        self.service = service
        self._excused = False
        command = [sys.executable, "-m", "daemon.cli", "--config", str(config), *arguments]
        path = os.pathsep.join(filter(None, sys.path))
        self._process = TetheredProcess(
            command, log=self.log, env=MINIMAL_ENVIRONMENT | {"PYTHONPATH": path}, cwd=log.parent
        )

    @property
    def failure(self) -> int | None:
        """The status that it ended with where it should not have, negative for a signal; else None."""
        status = self._process.exit_status()
        return None if self._excused or not status else status

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

    def excuse(self) -> None:
        """Its failure is known and dealt with."""
        self._excused = True

    async def kill(self) -> None:
        """SIGKILL, as a crash or the kernel's memory killer would; idempotent."""
        self.excuse()
        await asyncio.to_thread(self._process.end, signal.SIGKILL, STOP_LIMIT_S)


class Children:
    """All of them; leaving the block stops them in reverse order."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder = folder
        self._config = config
        self._started: list[Child] = []
        self.restarts = 0

    def start(self, name: str, *arguments: str, service: bool = False) -> Child:
        """Start one command; started again, its log is another file."""
        times = sum(child.name == name for child in self._started)
        log = self._folder / (f"{name}-{times + 1}.log" if times else f"{name}.log")
        child = Child(name, [name, *arguments], log, self._config, service=service)
        self._started.append(child)
        return child

    def running(self, name: str) -> Child:
        """The one of that name that was started last. Raises KeyError where none was."""
        for child in reversed(self._started):
            if child.name == name:
                return child
        raise KeyError(name)

    def check(self) -> None:
        """Start failed services again. Raises UnavailableError, with the end of the log, for what stays failed."""
        for child in tuple(self._started):
            status = child.failure
            if status is None:
                continue
            if not child.service or status == EX_CONFIG or self.restarts >= RESTARTS:
                raise UnavailableError(f"'sentinel {child.name}' ended with {status}:\n{child.tail()}")
            self.restarts += 1
            _log.warning(
                "A service ended and is started again.", action="restart", part=child.name, error=child.tail()
            )
            child.excuse()
            self.start(child.name, service=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in reversed(self._started):
            await child.stop()
