"""The layout's rules: names resolve here, files stay small, and nothing of one machine is tracked."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
MAX_LINES = 400

# Required names of the product; `sentinel doctor` fails when another distribution owns either.
ALLOWED_SHADOWS = {"daemon", "trainer"}

PLACES_OF_ONE_MACHINE = re.compile(
    r"/root/\.|/opt/(?:pypi|wheels)\b|(?<![\w.-])/work/|/home/(?!appuser)[a-z]+/"
    r"|files\.pythonhosted\.org|pypi\.org/simple|(?:index|extra-index)-url\s*[=:]|--find-links"
)


def tracked_files() -> list[Path]:
    """Every file of the checkout that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    files = tracked_files()
    # A test over no files passes for the wrong reason.
    assert ROOT / "pyproject.toml" in files
    assert Path(__file__).resolve() in files
    return files


def modules() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 2 * len(PACKAGES)
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_package_resolves_to_this_checkout(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"
    assert set(packages_distributions().get(name, ["sentinel-loop"])) == {"sentinel-loop"}


def test_every_top_level_package_is_listed_once_everywhere() -> None:
    on_disk = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert on_disk == set(PACKAGES)
    assert set(PYPROJECT["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)
    assert set(PYPROJECT["tool"]["mypy"]["files"]) == {*PACKAGES, "tests", "benchmarks"}
    assert set(PYPROJECT["tool"]["coverage"]["run"]["source"]) == {*PACKAGES, "tests"}


def test_no_module_is_named_after_a_library_or_a_standard_module() -> None:
    taken = {name.lower() for name in sys.stdlib_module_names}
    # What the extras install counts too: `datasets` is not in this environment but in the trainer's.
    extras = PYPROJECT["project"]["optional-dependencies"]
    for requirement in [
        *PYPROJECT["project"]["dependencies"],
        *(line for lines in extras.values() for line in lines),
    ]:
        taken.add(re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("-", "_"))
    taken |= {
        name.lower() for name, owners in packages_distributions().items() if owners != ["sentinel-loop"]
    }
    taken -= {"tests", "benchmarks"}
    names = {path: path.parent.name if path.name == "__init__.py" else path.stem for path in modules()}
    shadows = {
        str(path.relative_to(ROOT)): name
        for path, name in names.items()
        if name.lower() in taken and name not in ALLOWED_SHADOWS and not name.startswith("_")
    }
    assert shadows == {}


def test_no_file_is_longer_than_one_can_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_module_hides_what_it_holds_behind_its_name() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert [
        str(path) for path in modules() if vague & set(path.relative_to(ROOT).with_suffix("").parts)
    ] == []


def test_every_package_folder_says_what_it_is_for() -> None:
    folders = {path.parent for path in modules()}
    for folder in sorted(folders):
        init = folder / "__init__.py"
        assert init.is_file(), f"{folder.relative_to(ROOT)} has no __init__.py"
        assert ast.get_docstring(ast.parse(init.read_text())), f"{init.relative_to(ROOT)} has no docstring"


def test_test_packages_hang_together() -> None:
    """Where the chain up to `tests` breaks, pytest imports tests/unit/NAME as NAME, and that hides the product's."""
    inits = sorted((ROOT / "tests").rglob("__init__.py"))
    broken = [
        path
        for path in inits
        if path.parent.name != "tests" and not (path.parents[1] / "__init__.py").exists()
    ]
    assert broken == []
    assert len(inits) > 2


def test_no_tracked_file_names_a_machine_or_an_index(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if PLACES_OF_ONE_MACHINE.search(line)
        ]
    assert found == []


SHIPPED_MODELS = ROOT / "sentinel" / "embedded" / "models"
"""The tiny models: test articles that let the demonstration start at once; `sentinel tiny show` verifies them."""


def test_nothing_large_or_built_is_tracked(tracked: list[Path]) -> None:
    suffixes = {".pyc", ".whl", ".jar", ".so", ".safetensors", ".pt", ".sqlite"}
    models = [path for path in tracked if path.is_relative_to(SHIPPED_MODELS)]
    others = [path for path in tracked if not path.is_relative_to(SHIPPED_MODELS)]
    assert [str(path) for path in others if path.suffix in suffixes] == []
    assert [str(path) for path in others if path.stat().st_size > 1_000_000] == []
    assert {path.suffix for path in models} <= {".safetensors", ".json", ".jinja"}
    assert sum(path.stat().st_size for path in models) < 8_000_000
