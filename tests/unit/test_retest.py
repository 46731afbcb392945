"""`scripts/retest` lets a run pass whose few failures do not repeat, and no other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ONE = "tests/unit/test_a.py::test_one[a b]"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout after `make test`; its pytest fails in the rounds that the file ``fails`` lists."""
    for folder in ("scripts", ".venv/bin", ".cache", ".pytest_cache/v/cache"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/retest", tmp_path / "scripts/retest")
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    command(
        tmp_path / ".venv/bin/pytest",
        'printf "%s\\n" "$*" >>called\n! grep -qx "$(wc -l <called)" fails 2>/dev/null\n',
    )
    command(tmp_path / ".venv/bin/coverage", "[ ! -e low ]\n")
    return tmp_path


def command(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}")
    path.chmod(0o755)


def retest(checkout: Path, failed: list[str], status: str = "1") -> tuple[int, int, str]:
    """Exit status, number of rounds, and what was said."""
    (checkout / ".cache/test-status").write_text(f"{status}\n")
    (checkout / ".pytest_cache/v/cache/lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    done = subprocess.run(
        [str(checkout / "scripts/retest")], capture_output=True, text=True, check=False, timeout=60
    )
    called = checkout / "called"
    rounds = called.read_text().splitlines() if called.exists() else []
    assert all(ONE in line for line in rounds)
    return done.returncode, len(rounds), done.stdout + done.stderr


def test_a_failure_that_does_not_repeat_is_named(checkout: Path) -> None:
    status, rounds, said = retest(checkout, [ONE])
    assert (status, rounds) == (0, 3), said
    assert f"FLAKY {ONE}" in said


@pytest.mark.parametrize("round_", [1, 2, 3])
def test_a_failure_that_repeats_once_stays_one(checkout: Path, round_: int) -> None:
    (checkout / "fails").write_text(f"{round_}\n")
    status, rounds, said = retest(checkout, [ONE, "tests/unit/test_a.py::test_two"])
    assert (status, rounds) == (1, round_)
    assert "FLAKY" not in said


@pytest.mark.parametrize("status", ["2", "3", "4", "5", "137"])
def test_a_run_that_broke_off_is_not_repeated(checkout: Path, status: str) -> None:
    assert retest(checkout, [ONE], status)[:2] == (1, 0)


@pytest.mark.parametrize(
    "failed",
    [[], [f"tests/unit/test_a.py::test_{n}" for n in range(4)], [ONE, "tests/unit/test_b.py"]],
    ids=["none", "four", "not-collected"],
)
def test_what_is_not_a_few_failed_tests_is_not_repeated(checkout: Path, failed: list[str]) -> None:
    assert retest(checkout, failed)[:2] == (1, 0)


def test_without_a_status_of_this_run_it_fails(checkout: Path) -> None:
    status, rounds, _ = retest(checkout, [ONE], "")
    assert (status, rounds) == (1, 0)


def test_low_coverage_is_not_forgotten(checkout: Path) -> None:
    (checkout / "low").touch()
    assert retest(checkout, [ONE])[:2] == (1, 0)
