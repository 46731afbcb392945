"""TCP ports that are chosen now and bound by a child process later."""

from __future__ import annotations

import os
import secrets
import socket
import weakref
from pathlib import Path
from typing import Final, Self

from sentinel.errors import UnavailableError

HOST: Final = "127.0.0.1"
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST: Final = 15000
_FEWEST: Final = 1000
"""Ports below the kernel's own range that must be left to choose from."""
_TRIES: Final = 200


class ReservedPort:
    """A free port on 127.0.0.1, of which no other reservation on this machine has the number.

    A port that the kernel hands out (``bind`` to 0) may go to any outgoing connection, or to another program
    that asks in the same way, before the child has bound it. So the number lies outside the range of
    ``ip_local_port_range``, and a socket in Linux's abstract namespace (unix(7)), which ends with this process,
    marks it as taken.
    """

    def __init__(self) -> None:
        """Raises UnavailableError where no port is free."""
        below = _first_of_kernel()
        for _ in range(_TRIES):
            number = _FIRST + secrets.randbelow(below - _FIRST)
            mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                mark.bind(f"\0sentinel-port-{number}")
                with socket.socket() as probe:
                    probe.bind((HOST, number))
            except OSError:
                mark.close()
                continue
            self.number = number
            # Given up with this object, which nobody has to remember to release.
            self._release = weakref.finalize(self, os.close, mark.detach())
            return
        raise UnavailableError(f"no free TCP port found between {_FIRST} and {below}")

    def release(self) -> None:
        """Let others have the number; idempotent."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _first_of_kernel() -> int:
    """Where the ports begin that the kernel hands out by itself."""
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    # A machine that gives the kernel nearly everything leaves the mark as the only protection.
    return first if first >= _FIRST + _FEWEST else 60000
