"""A reserved port is nobody else's until it is released, in this process and in others."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from pathlib import Path

import pytest

from sentinel.embedded import ports
from sentinel.embedded.ports import HOST, ReservedPort
from sentinel.errors import UnavailableError


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> int:
    """Only two numbers are left to choose from."""
    for _ in range(100):
        with ReservedPort() as somewhere:
            first = somewhere.number
        with monkeypatch.context() as narrowed:
            narrowed.setattr(ports, "_FIRST", first)
            narrowed.setattr(ports, "_first_of_kernel", lambda first=first: first + 2)
            try:
                with ReservedPort(), ReservedPort():
                    break
            except UnavailableError:
                continue  # its neighbour is a server's
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_first_of_kernel", lambda: first + 2)
    return first


def test_lies_outside_the_range_that_the_kernel_hands_out() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with ReservedPort() as port:
        assert 15000 <= port.number < max(low, 60000)
        with socket.socket() as server:
            server.bind((HOST, port.number))


def test_is_not_given_twice(narrow: int) -> None:
    made = [ReservedPort(), ReservedPort()]
    assert {port.number for port in made} == {narrow, narrow + 1}
    with pytest.raises(UnavailableError, match="no free TCP port"):
        ReservedPort()
    made[0].release()
    made[0].release()
    assert ReservedPort().number == made[0].number


def test_ends_with_its_object(narrow: int) -> None:
    made = [ReservedPort(), ReservedPort()]
    made.clear()
    gc.collect()
    assert ReservedPort().number in (narrow, narrow + 1)


def test_what_somebody_listens_on_is_left_alone(narrow: int) -> None:
    with socket.socket() as server:
        server.bind((HOST, narrow))
        assert ReservedPort().number == narrow + 1


async def test_holds_against_another_process(narrow: int) -> None:
    code = (
        "from sentinel.embedded import ports\n"
        f"ports._FIRST = {narrow}; ports._first_of_kernel = lambda: {narrow + 2}\n"
        "print(ports.ReservedPort().number)"
    )
    with ReservedPort() as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert {port.number, int(output)} == {narrow, narrow + 1}
