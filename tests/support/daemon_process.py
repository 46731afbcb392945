"""``sentinel run`` as a process of its own, under a service manager that only listens."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

SENTINEL = Path(sys.executable).with_name("sentinel")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This environment with ``settings`` ("kafka.group_id": "x") as the only ones of the product."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("SENTINEL_")}
    base.pop("NOTIFY_SOCKET", None)
    # No file of this host: the default one under /etc would be taken otherwise.
    made = {f"SENTINEL_{key.upper().replace('.', '__')}": value for key, value in settings.items()}
    return base | {"SENTINEL_CONFIG": os.devnull} | made


class NotifySocket:
    """The receiving end of sd_notify; datagrams are kept in order."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self._received: list[str] = []
        self._lock = threading.Lock()
        self._closing, self._closed = os.pipe()
        # The kernel keeps ten datagrams: what comes while no test looks would be lost, and a manager loses nothing.
        self._reader = threading.Thread(target=self._read, name="notify", daemon=True)
        self._reader.start()

    @property
    def messages(self) -> list[str]:
        """Everything received so far."""
        with self._lock:
            while True:
                try:
                    self._received.append(self._socket.recv(4096).decode())
                except BlockingIOError:
                    return list(self._received)

    def close(self) -> None:
        os.close(self._closed)
        self._reader.join()
        os.close(self._closing)
        self._socket.close()

    def _read(self) -> None:
        watched = [self._socket.fileno(), self._closing]
        while self._closing not in select.select(watched, [], [])[0]:
            _ = self.messages


class DaemonProcess:
    """Started when made. `end` at the latest kills it."""

    def __init__(
        self, settings: Mapping[str, str], folder: Path, *, watchdog_s: float = 2.0, command: str = "run"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.notify = NotifySocket(folder / "notify")
        self.log = folder / "daemon.log"
        self._file = self.log.open("wb")
        manager = {"NOTIFY_SOCKET": self.notify.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        self.process = subprocess.Popen(
            [SENTINEL, command],
            env=environment(settings) | manager,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    async def until(self, message: str, timeout: float = 120.0) -> None:
        """Wait for a notification that begins with ``message``; fails when the process ends before."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not any(found.startswith(message) for found in self.notify.messages):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            assert asyncio.get_running_loop().time() < deadline, f"no {message!r}:\n{self.output}"
            await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout: float = 120.0) -> int:
        """The exit status."""
        try:
            return await asyncio.to_thread(self.process.wait, timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {timeout} s: {self.notify.messages[-3:]}\n{self.output}"
            ) from None

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        self._file.close()
        self.notify.close()
