"""The import contracts: each is broken once in a copy of the packages, and is seen to fail there."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

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
        timeout=120,
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
    broken.write_text(code + "\n")
    try:
        result = lint(copied, contract)
    finally:
        broken.unlink()
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


def test_the_command_line_starts_without_any_heavy_library() -> None:
    code = f"import sys, daemon, consumers, producers; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
