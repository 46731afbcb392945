"""Talking to systemd: READY, STATUS, WATCHDOG, STOPPING. Source: sd_notify(3)."""

from __future__ import annotations

import socket

from sentinel import logs

_log = logs.get("sentinel.notify")


class Notifier:
    """Sends datagrams to the service manager; without one, does nothing. Never raises, never blocks."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._status = ""
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self) -> None:
        """Start-up is done."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent only when it changed."""
        line = text.replace("\n", " ")
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Start or stop takes longer: ask for so much more time."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def stopping(self) -> None:
        """The stop has begun."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None or self._address is None:
            return
        # "@" stands for the leading NUL of an address in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._socket.sendto(message.encode(), address)
        except OSError as error:
            # A manager that went away must not take the service with it.
            _log.debug("The service manager could not be told.", action="notify", error=type(error).__name__)
