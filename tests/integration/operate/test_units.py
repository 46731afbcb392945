"""The systemd units, rendered with the installed command, in the eyes of systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.units import PLACEHOLDER, hidden_place, render_units, write_units
from sentinel.errors import EX_CONFIG, CommandError
from sentinel.resources import data_path
from sentinel.settings import Settings, load
from tests.support.daemon_process import SENTINEL, environment

LARGEST_EXPOSURE = 2.0
TRAINER = "sentinel-trainer.service"
SERVICES = ("sentinel@.service", "sentinel-migrate.service", "sentinel-route.service", TRAINER)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    files = write_units(tmp_path, SENTINEL)
    assert {file.name for file in files} >= {*SERVICES, "sentinel.target", "sentinel.slice"}
    return tmp_path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "scripts/system-packages installs it"
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=180
    )


def values(unit: str, key: str) -> list[str]:
    text = data_path("configs", "systemd", unit).read_text()
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def seconds(unit: str, key: str) -> float:
    (value,) = values(unit, key)
    return float(value)


def test_systemd_finds_no_fault(units: Path) -> None:
    result = analyze("verify", *sorted(units.iterdir()))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_systemd_sees_a_planted_fault(units: Path) -> None:
    unit = units / "sentinel@.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=30", "WatchDogSec=30"))
    assert "WatchDogSec" in analyze("verify", unit).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_small(units: Path, name: str) -> None:
    result = analyze("security", "--offline=true", f"--threshold={int(LARGEST_EXPOSURE * 10)}", units / name)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) < LARGEST_EXPOSURE
    assert result.returncode == 0


def test_an_open_unit_is_seen(units: Path) -> None:
    unit = units / "sentinel@.service"
    kept = [
        line
        for line in unit.read_text().splitlines()
        if not line.startswith(("Protect", "Private", "System"))
    ]
    unit.write_text("\n".join(kept))
    result = analyze("security", "--offline=true", f"--threshold={int(LARGEST_EXPOSURE * 10)}", unit)
    assert result.returncode != 0


def test_stopping_has_time_for_the_whole_drain() -> None:
    consumer = Settings().consumer
    drain = consumer.stop_intake_s + consumer.drain_s + 2 * consumer.flush_s
    assert drain + 10 <= seconds("sentinel@.service", "TimeoutStopSec")


def test_stopping_has_time_to_put_a_run_down() -> None:
    assert Settings().training.kill_grace_s + 15 + 10 <= seconds(TRAINER, "TimeoutStopSec")
    assert values(TRAINER, "KillMode") == ["mixed"], "the trainer ends its run itself"


def test_the_watchdog_waits_longer_than_it_is_fed_and_than_the_poller_may_be_silent() -> None:
    limit = seconds("sentinel@.service", "WatchdogSec")
    assert limit > 2 * 1.0, "fed every second, or at half the limit"
    assert limit > Settings().daemon.poller_deadline_s


def test_a_configuration_error_is_not_restarted() -> None:
    assert values("sentinel@.service", "RestartPreventExitStatus") == [str(EX_CONFIG)]
    assert values("sentinel@.service", "Restart") == ["on-failure"]


def test_the_environment_of_the_unit_is_understood() -> None:
    lines = dict(line.split("=", 1) for line in values("sentinel@.service", "Environment"))
    lines = {name: text.replace("%H", "host").replace("%i", "2") for name, text in lines.items()}
    settings = load(environ=lines, default_file=Path("/nonexistent")).settings
    assert settings.kafka.instance_id == "host-2"
    assert settings.daemon.instance == 2
    assert settings.metrics.port == 8012
    assert settings.logging.format == "json"


@pytest.mark.parametrize("name", SERVICES)
def test_the_credentials_of_the_unit_are_settings(tmp_path: Path, name: str) -> None:
    named = [line.partition(":")[0] for line in values(name, "LoadCredential")]
    assert named == ["database_url"]
    (tmp_path / "database_url").write_text("postgresql://u:p@db/x\n")
    loaded = load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}, default_file=Path("/nonexistent"))
    assert loaded.settings.database.url.get_secret_value() == "postgresql+asyncpg://u:p@db/x"
    assert loaded.credentials == tmp_path


def test_every_unit_starts_a_command_that_exists(units: Path) -> None:
    started = [
        line.removeprefix("ExecStart=").split()
        for unit in sorted(units.glob("*.service"))
        for line in unit.read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    assert len(started) == len(SERVICES)
    for command, *words in started:
        assert Path(command) == SENTINEL
        shown = subprocess.run(
            [command, *words, "--help"], capture_output=True, text=True, check=False, timeout=180
        )
        assert shown.returncode == 0, shown.stderr
        assert " ".join(["sentinel", *words]) in shown.stdout


def test_the_command_writes_them(tmp_path: Path) -> None:
    result = subprocess.run(
        [SENTINEL, "check", "--write-units", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=environment({}),
    )
    assert result.returncode == 0, result.stderr
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == render_units(SENTINEL)
    assert not any(PLACEHOLDER in text for text in written.values())
    assert f"ExecStart={SENTINEL} run" in written["sentinel@.service"]


def test_a_place_that_systemd_cannot_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="not a program"):
        render_units(tmp_path / "sentinel")
    blank = tmp_path / "a folder" / "sentinel"
    blank.parent.mkdir()
    blank.write_text("#!/bin/sh\n")
    blank.chmod(0o755)
    with pytest.raises(CommandError, match="blanks"):
        render_units(blank)
    assert hidden_place(Path("/root/venv/bin/sentinel")) == "/root"
    assert hidden_place(Path("/opt/sentinel/bin/sentinel")) is None


def test_the_process_lives_without_writable_and_executable_memory() -> None:
    """MemoryDenyWriteExecute= through the kernel's own switch (PR_SET_MDWE, Linux 6.3)."""
    program = (
        "import ctypes, mmap, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.prctl(65, 1, 0, 0, 0) != 0: sys.exit(77)\n"
        "try:\n"
        "    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "    sys.exit('the switch has no effect')\n"
        "except PermissionError: pass\n"
        "import asyncio, uvloop, aiokafka, asyncpg, orjson, msgspec, cramjam, daemon.app\n"
        "uvloop.run(asyncio.sleep(0.01))\n"
        "assert bytes(cramjam.zstd.decompress(cramjam.zstd.compress(b'x' * 99))) == b'x' * 99\n"
        "print('alive')\n"
    )
    import sys

    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=environment({}),
    )
    if result.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert result.stdout == "alive\n", result.stderr


@pytest.mark.parametrize("name", [name for name in SERVICES if name != TRAINER])
def test_all_services_are_one_user(name: str) -> None:
    """Instances share a state folder, which systemd gives to the user of whoever started last."""
    assert [values(name, key) for key in ("DynamicUser", "User", "Group")] == [
        ["yes"],
        ["sentinel"],
        ["sentinel"],
    ]


def test_the_trainer_keeps_its_user_and_shares_its_adapters_by_group() -> None:
    assert values(TRAINER, "DynamicUser") == []
    assert [values(TRAINER, key) for key in ("User", "Group", "UMask", "StateDirectoryMode")] == [
        ["sentinel-trainer"],
        ["sentinel-adapters"],
        ["0027"],
        ["0750"],
    ]
