"""Signals to a server and all its children. Needs psutil, so import it inside functions."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import psutil


def signal_family(pid: int, number: signal.Signals, *, children_first: bool = False) -> None:
    """Signal a process and its descendants; those that have ended are left out.

    The parent comes first by default: frozen or dead it starts no further child.
    """
    with suppress(psutil.NoSuchProcess):
        family = _family(psutil.Process(pid))
        for process in reversed(family) if children_first else family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def end_family(pid: int, argument: str, number: signal.Signals, timeout: float) -> None:
    """End the server ``pid`` if ``argument`` is in its command line, and wait until its children are gone.

    After a reboot a stored process id may belong to anybody, hence the comparison. SIGKILL follows after
    ``timeout`` seconds.
    """
    try:
        server = psutil.Process(pid)
        if argument not in server.cmdline():
            return
        family = _family(server)
        server.resume()  # a frozen process takes no signal but SIGKILL
        server.send_signal(number)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return
    deadline = time.monotonic() + timeout
    while any(map(_works, family)):
        if time.monotonic() > deadline:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(0.02)


def _family(parent: psutil.Process) -> list[psutil.Process]:
    return [parent, *parent.children(recursive=True)]


def _works(process: psutil.Process) -> bool:
    # In a container without an init nobody collects an orphan: it stays a zombie, and holds nothing.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
