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


def test_the_locks_are_seen() -> None:
    assert {"dev.txt", "models.txt", "runtime.txt"} <= {path.name for path in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_has_hashes_and_no_address(lock: Path) -> None:
    assert len(pins(lock)) > 30
    assert re.findall(r".*(?:://|index-url|find-links|trusted-host).*", lock.read_text()) == []


@pytest.mark.parametrize("lock", ["dev.txt", "runtime.txt"])
def test_lock_holds_neither_torch_nor_what_needs_it(lock: str) -> None:
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "vllm"}
    assert heavy & set(pins(ROOT / "requirements" / lock)) == set()


def test_the_models_lock_holds_what_needs_torch_and_no_torch() -> None:
    names = set(pins(ROOT / "requirements/models.txt"))
    assert {"transformers", "peft", "safetensors", "tokenizers", "fastapi", "uvicorn"} <= names
    assert {name for name in names if re.match(r"(torch|nvidia|cuda|triton)", name)} == set()


def test_torch_is_pinned_apart_and_fits_pyproject() -> None:
    text = (ROOT / "requirements/torch.in").read_text()
    (pin,) = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    (version,) = [specifier.version for specifier in pin.specifier if specifier.operator == "=="]
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(line) for extra in ("serve", "train") for line in extras[extra]]
    ranges = [requirement.specifier for requirement in wanted if requirement.name == "torch"]
    assert len(ranges) == 2
    assert all(specifier.contains(version) for specifier in ranges)


def test_what_is_tested_is_what_is_shipped() -> None:
    tested, shipped = pins(ROOT / "requirements/dev.txt"), pins(ROOT / "requirements/runtime.txt")
    assert {
        name: (version, tested.get(name)) for name, version in shipped.items() if tested.get(name) != version
    } == {}


def test_locks_of_one_environment_agree() -> None:
    first, second = pins(ROOT / "requirements/dev.txt"), pins(ROOT / "requirements/models.txt")
    shared = first.keys() & second.keys()
    assert len(shared) > 30
    assert {name: (first[name], second[name]) for name in shared if first[name] != second[name]} == {}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("runtime.txt", []), ("dev.txt", ["demo", "dev"]), ("models.txt", ["serve", "train"])],
)
def test_lock_satisfies_pyproject(lock: str, extras: list[str]) -> None:
    locked = pins(ROOT / "requirements" / lock)
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]
    unfit = []
    for requirement in map(Requirement, wanted):
        if requirement.name == "torch":
            continue  # pinned apart
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unfit.append(f"{requirement}: locked {version}; run make lock")
    assert unfit == []
