"""``sentinel check`` as a script calls it."""

from __future__ import annotations

import resource
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sentinel.store.migrate import migrate
from tests.support.daemon_process import SENTINEL, environment


def check(settings: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENTINEL, "check", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=environment(settings),
    )


def answered(settings: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """`check` on a machine with other work: it gives the database 1.5 s, and then says 75, try again."""
    for _ in range(20):
        result = check(settings, *options)
        if result.returncode != 75:
            break
    return result


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []
        thread = threading.Thread(target=lambda: kept.append(server.accept()), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        for connection, _ in kept:
            connection.close()


async def test_all_in_order(database_url: str) -> None:
    result = answered({"database.url": database_url})
    assert (result.returncode, result.stderr) == (0, "")


async def test_it_says_what_run_would_need(empty_database_url: str) -> None:
    await migrate(empty_database_url, "0002")
    result = answered({"database.url": empty_database_url})
    assert result.returncode == 78
    assert "sentinel migrate" in result.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kafka.topic": "x"}, "kafka.topics"),
        ({"guard.grammar": "nonsense"}, "guard.grammar"),
        (
            {"kafka.security.protocol": "SSL", "kafka.security.ca_file": "/nonexistent.pem"},
            "kafka.security.ca_file",
        ),
        ({"metrics.host": "192.0.2.77"}, "192.0.2.77"),
    ],
)
def test_configuration_is_78_without_asking_the_database(settings: dict[str, str], named: str) -> None:
    result = check(settings, "--offline")
    assert result.returncode == 78
    assert named in result.stderr


def test_a_database_that_is_away_is_69(free_port: int) -> None:
    result = answered({"database.url": f"postgresql://u:hidden-word@127.0.0.1:{free_port}/x"})
    assert result.returncode == 69
    assert "hidden-word" not in result.stderr + result.stdout


def test_a_database_without_an_answer_is_75() -> None:
    with silent_server() as port:
        result = check({"database.url": f"postgresql://u:p@127.0.0.1:{port}/x"})
    assert result.returncode == 75


def test_a_wrong_database_is_78(database_url: str) -> None:
    result = answered({"database.url": database_url + "_absent"})
    assert result.returncode == 78
    assert "database.url" in result.stderr


def test_a_port_in_use_passes_since_the_running_daemon_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check({"metrics.port": str(port)}, "--offline").returncode == 0


def test_the_help_names_the_statuses() -> None:
    shown = check({}, "--help").stdout
    assert all(status in shown for status in ("69", "75", "78"))


def test_nothing_is_changed(tmp_path: Path) -> None:
    check({"runs_dir": str(tmp_path / "runs")}, "--offline")
    assert list(tmp_path.iterdir()) == []


def test_it_costs_less_than_two_seconds(database_url: str) -> None:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    costs = []
    for _ in range(5):
        before = spent()
        # Whether the database answered in time (75 says that it did not) makes no difference to the cost.
        assert check({"database.url": database_url}).returncode in (0, 75)
        # Processor time, since a loaded test machine says nothing about waiting; shared cores make it longer, too.
        costs.append(spent() - before)
        if costs[-1] < 2.0:
            return
    pytest.fail(f"{costs} s of processor time")
