"""The process of one run: dies with the trainer, writes to one log, is stopped first gently, then not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from trainer import tethered

_TAIL_BYTES: Final = 16_384


class RunProcess:
    """A started command. Make it with `start`, in the main thread (see `trainer.tethered`)."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, command: Sequence[str], log: Path) -> Self:
        """Start ``command`` with both outputs appended to ``log``. Raises OSError where that fails."""
        tether = [sys.executable, "-I", "-S", tethered.__file__, str(os.getpid())]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *tether,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C in a terminal is for the trainer, which stops its run in order.
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        return self._process.pid

    async def wait(self, timeout: float | None = None) -> int | None:
        """The exit status (negative: the signal), None where it still runs after ``timeout`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._process.wait()
        return None

    async def stop(self, grace: float) -> int:
        """SIGTERM to the whole group, SIGKILL after ``grace`` seconds; the exit status."""
        self._signal(signal.SIGTERM)
        if await self.wait(grace) is None:
            self._signal(signal.SIGKILL)
        status = await self._process.wait()
        # What it started may have outlived it, and would go on writing into the run's folder.
        self._signal(signal.SIGKILL)
        return status

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def log_tail(self) -> str:
        """The newest part of the log; of each line, what was written last over it (progress bars)."""
        return tail_of(self._log)


def tail_of(log: Path) -> str:
    """The newest 16 kB of a log as text; empty where there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            raw = file.read()
    except FileNotFoundError:
        return ""
    lines = raw.decode("utf-8", "replace").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def last_words(tail: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")


def spoken(status: int) -> str:
    """An exit status for people."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
