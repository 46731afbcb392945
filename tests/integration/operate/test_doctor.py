"""``sentinel doctor`` as an operator calls it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.operate.conftest import StartDaemon
from tests.support.brokers import ApacheKafka
from tests.support.daemon_process import SENTINEL, environment
from tests.support.events import many

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


async def doctor(
    settings: Mapping[str, str], *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SENTINEL, "doctor", *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env=environment(settings) | variables,
        )

    # In a thread: the guard that it asks lives in this test's event loop.
    return await asyncio.to_thread(call)


def findings(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.stderr == ""
    made = json.loads(result.stdout)
    assert made["status"] == result.returncode
    found: list[dict[str, Any]] = made["findings"]
    return found


def bad(found: list[dict[str, Any]]) -> dict[str, str]:
    """Remedies of what failed, by part."""
    failed = [finding for finding in found if finding["level"] == "fail"]
    assert all(finding["remedy"] for finding in failed)
    return {finding["part"]: finding["message"] for finding in failed}


async def test_a_working_installation_is_healthy(
    settings: dict[str, str], kafka: ApacheKafka, topics: dict[str, str], start_daemon: StartDaemon
) -> None:
    kafka.produce(topics["kafka.topics"], many(10))
    daemon = start_daemon(settings)
    await daemon.until("STATUS=ready: 2 partitions")
    result = await doctor(settings, "--json")
    found = findings(result)
    assert bad(found) == {}
    assert result.returncode == 0
    said = {finding["part"]: finding["message"] for finding in found if finding["level"] == "ok"}
    assert "1 member(s)" in said["group"]
    assert "over 2 partition(s)" in said["lag"]
    assert {
        "python",
        "packages",
        "compiled parts",
        "import names",
        "settings",
        "schema",
        "partitions",
        "guard",
    } <= set(said)

    # One broker without copies, and a server without fsync: worth a warning, no problem.
    warned = {finding["part"] for finding in found if finding["level"] == "warn"}
    assert {"database", "topics"} <= warned
    assert (await doctor(settings, "--json", "--strict")).returncode == 1


async def test_all_servers_away(settings: dict[str, str], free_port: int) -> None:
    away = {
        **settings,
        "database.url": f"postgresql://u:hidden-word@127.0.0.1:{free_port}/d",
        "kafka.bootstrap_servers": f"127.0.0.1:{free_port}",
        "guard.base_url": f"http://127.0.0.1:{free_port}",
        "guard.api_key": "hidden-key",
    }
    result = await doctor(away)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    failed = [line.split(":")[0] for line in lines if line.startswith("fail")]
    assert failed == ["fail database", "fail guard", "fail kafka"], result.stdout
    assert lines[1].lstrip().startswith("-> ")
    assert re.search(r"^3 problem\(s\), \d+ warning\(s\), \d+ in order$", result.stdout, re.MULTILINE)
    assert "hidden-" not in result.stdout + result.stderr


async def test_wrong_settings_are_each_named() -> None:
    wrong = {"kafka.topic": "x", "metrics.port": "many", "database.url": "mysql://hidden-word@h/d"}
    found = findings(await doctor(wrong, "--json"))
    settings = [finding["message"] for finding in found if finding["part"] == "settings"]
    assert len(settings) == 3
    assert any("kafka.topics" in message for message in settings)
    assert "hidden-word" not in str(found)


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("aiokafka", "aiokafka"),
        ("asyncpg", "asyncpg"),
        ("cramjam", "cramjam"),
        ("msgspec", "msgspec"),
        ("pydantic", "pydantic"),
        ("rich", "rich"),
        ("sqlalchemy", "sqlalchemy"),
        ("uvloop", "uvloop"),
        ("yaml", "pyyaml"),
    ],
)
async def test_a_hidden_package_is_named(tmp_path: Path, module: str, distribution: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(name=module))
    result = await doctor({}, "--json", PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    if module == "pydantic":
        # Typer cannot work without it either, so no command can say it any better.
        assert f"No module named '{module}'" in result.stderr
        return
    packages = [f for f in findings(result) if f["part"] == "packages" and f["level"] == "fail"]
    assert any(f["message"].startswith(f"{distribution} cannot be imported") for f in packages), packages


async def test_another_distribution_that_owns_a_name(tmp_path: Path) -> None:
    info = tmp_path / "Evil_Thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Evil_Thing\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("daemon\n")
    (info / "RECORD").write_text("")
    found = findings(await doctor({}, "--json", PYTHONPATH=str(tmp_path)))
    assert "evil-thing" in bad(found)["import names"]


async def test_nothing_is_written(settings: dict[str, str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    await doctor(settings)
    assert sorted(tmp_path.rglob("*")) == before


async def test_the_help_names_the_statuses() -> None:
    shown = (await doctor({}, "--help")).stdout
    assert "Exit status" in shown
    assert "--strict" in shown
