"""`.ci/run` does all that must hold for a commit, in order, and stops at the first thing that does not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["system-packages", "make setup", "setup-postgres14", "setup-vllm", "make check", "make test"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose commands only note that they were called; one of them fails where ``failing`` names it."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    (folder / ".ci").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    scripts = [folder / "scripts" / name for name in STEPS if " " not in name]
    for path in (*scripts, tmp_path / "bin/make"):
        # The last argument is the target; options before it are not the question.
        path.write_text(
            '#!/bin/bash\nsaid="$(basename "$0")${*:+ ${@: -1}}"\necho "$said" >>../called\n'
            '[ "$said" != "$(cat ../failing 2>/dev/null)" ]\n'
        )
        path.chmod(0o755)
    return folder


def run(checkout: Path, **variables: str) -> tuple[int, list[str], str]:
    """Exit status, what was called, and what was said."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA", "SENTINEL"))}
    known["PATH"] = f"{checkout.parent / 'bin'}:{known['PATH']}"
    done = subprocess.run(
        [str(checkout / ".ci/run")], env=known | variables, capture_output=True, text=True, check=False
    )
    called = checkout.parent / "called"
    return (
        done.returncode,
        called.read_text().splitlines() if called.exists() else [],
        done.stdout + done.stderr,
    )


def test_everything_is_called_in_order(checkout: Path) -> None:
    status, called, said = run(checkout, KAFKA_HOME="/opt/kafka")
    assert (status, called) == (0, STEPS), said


@pytest.mark.parametrize("failing", STEPS)
def test_the_first_failure_is_the_last_step(checkout: Path, failing: str) -> None:
    (checkout.parent / "failing").write_text(failing)
    status, called, said = run(checkout, KAFKA_HOME="/opt/kafka")
    assert status != 0
    assert called == STEPS[: STEPS.index(failing) + 1]
    assert "FAILED" in said


@pytest.mark.parametrize(
    "variables", [{}, {"SENTINEL_TEST_KAFKA": "localhost:9092"}], ids=["none", "running"]
)
def test_without_a_kafka_to_start_it_fails_at_once(checkout: Path, variables: dict[str, str]) -> None:
    status, called, said = run(checkout, **variables)
    assert (status, called) == (1, [])
    assert "no real Kafka" in said


def test_a_kafka_beside_the_checkout_will_do(checkout: Path) -> None:
    (checkout.parent / "shared/kafka/libs").mkdir(parents=True)
    status, called, said = run(checkout)
    assert (status, called) == (0, STEPS), said
