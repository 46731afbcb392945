"""sd_notify over real sockets: in the file system, in the abstract namespace, and gone."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.notify import Notifier
from sentinel.settings import service_manager


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(20)
        yield made


def received(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def test_a_path(manager: socket.socket, tmp_path: Path) -> None:
    manager.bind(str(tmp_path / "n"))
    notifier = Notifier(str(tmp_path / "n"))
    notifier.ready()
    notifier.status("two\nlines")
    notifier.status("two\nlines")
    notifier.watchdog()
    notifier.extend(1.5)
    notifier.stopping()
    assert [received(manager) for _ in range(5)] == [
        "READY=1",
        "STATUS=two lines",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1",
    ]
    notifier.close()
    notifier.close()
    notifier.ready()


def test_the_abstract_namespace(manager: socket.socket) -> None:
    name = f"sentinel-test-{uuid.uuid4().hex}"
    manager.bind(f"\0{name}")
    notifier = Notifier(f"@{name}")
    notifier.ready()
    assert received(manager) == "READY=1"
    notifier.close()


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier(None)
    notifier.ready()
    notifier.status("x")
    notifier.close()


def test_a_manager_that_is_gone_does_no_harm(manager: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "n"
    manager.bind(str(path))
    notifier = Notifier(str(path))
    manager.close()
    notifier.watchdog()
    path.unlink()
    notifier.watchdog()
    notifier.close()


def test_a_manager_that_does_not_read_does_not_block(manager: socket.socket, tmp_path: Path) -> None:
    manager.bind(str(tmp_path / "n"))
    notifier = Notifier(str(tmp_path / "n"))
    for number in range(5_000):
        notifier.status(f"{number}" * 20)
    assert received(manager).startswith("STATUS=0")
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "socket_name", "watchdog_s"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000"}, "/run/n", 30.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "x"}, None, None),
    ],
)
def test_what_the_manager_says(
    environ: dict[str, str], socket_name: str | None, watchdog_s: float | None
) -> None:
    found = service_manager(environ)
    assert (found.notify_socket, found.watchdog_s) == (socket_name, watchdog_s)
