"""The lock files: every version has hashes, no address is in them, and they fit pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: Path) -> dict[str, str]:
    """Version by name, and a failure for any entry without a hash."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", lock.read_text()):
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)", block)
        if match is None:
            # Only comments may stand beside the pins: an option line could name an index.
            assert all(line.lstrip().startswith("#") for line in block.splitlines() if line.strip()), block
            continue
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), f"{match.group(1)} has no hash"
        found[canonicalize_name(match.group(1))] = match.group(2)
    return found


def test_there_are_two_locks() -> None:
    assert [path.name for path in LOCKS] == ["dev.txt", "runtime.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_has_hashes_and_no_address(lock: Path) -> None:
    assert len(pins(lock)) > 30
    assert re.findall(r".*(?:://|index-url|find-links|trusted-host).*", lock.read_text()) == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_holds_neither_torch_nor_what_needs_it(lock: Path) -> None:
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "vllm"}
    assert heavy & set(pins(lock)) == set()


def test_what_is_tested_is_what_is_shipped() -> None:
    tested, shipped = pins(ROOT / "requirements/dev.txt"), pins(ROOT / "requirements/runtime.txt")
    assert {
        name: (version, tested.get(name)) for name, version in shipped.items() if tested.get(name) != version
    } == {}


@pytest.mark.parametrize(("lock", "extras"), [("runtime.txt", []), ("dev.txt", ["demo", "dev"])])
def test_lock_satisfies_pyproject(lock: str, extras: list[str]) -> None:
    locked = pins(ROOT / "requirements" / lock)
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]
    unfit = []
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unfit.append(f"{requirement}: locked {version}; run make lock")
    assert unfit == []
