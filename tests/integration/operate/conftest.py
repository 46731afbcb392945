"""Daemons as processes, and the settings that lead them to the tests' servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sentinel.embedded.scripted_guard import MODEL, ScriptedGuard
from tests.support.brokers import ApacheKafka
from tests.support.daemon_process import DaemonProcess

StartDaemon = Callable[[Mapping[str, str]], DaemonProcess]


@pytest.fixture
def topics(kafka: ApacheKafka) -> dict[str, str]:
    """One topic of each kind, in the order of settings."""
    names = ("kafka.topics", "kafka.findings_topic", "kafka.dead_letters_topic", "kafka.promotions_topic")
    compacted = {"cleanup.policy": "compact"}
    return {
        name: kafka.create_topic(partitions=2, config=compacted if "promotions" in name else None)
        for name in names
    }


@pytest.fixture
def settings(
    kafka: ApacheKafka, topics: dict[str, str], database_url: str, guard: ScriptedGuard, tmp_path: Path
) -> dict[str, str]:
    """By key, all text: as a flag or a variable gives them."""
    return {
        "kafka.bootstrap_servers": kafka.bootstrap,
        "kafka.group_id": f"group-{topics['kafka.topics']}",
        "database.url": database_url,
        "guard.base_url": guard.url,
        "guard.name": MODEL,
        "metrics.port": "0",
        "runs_dir": str(tmp_path / "runs"),
        **topics,
    }


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    started: list[DaemonProcess] = []

    def start(settings: Mapping[str, str]) -> DaemonProcess:
        started.append(DaemonProcess(settings, tmp_path / f"daemon-{len(started)}"))
        return started[-1]

    yield start
    for daemon in started:
        daemon.end()
