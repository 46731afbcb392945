"""What ships: the wheel holds every package file and every data file, and nothing of the tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sentinel import resources
from sentinel.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
DATA = [name for name in ("configs", "dashboards") if (ROOT / name).is_dir() and any((ROOT / name).iterdir())]


def shipped_files(folder: str) -> set[str]:
    """The files of a folder that git tracks or would track, relative to the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=240,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_package_file_ships(names: set[str]) -> None:
    expected = set().union(*(shipped_files(package) for package in PACKAGES))
    assert "sentinel/py.typed" in expected
    assert expected - names == set()


def test_every_data_file_ships(names: set[str]) -> None:
    assert "configs" in DATA
    expected = {f"sentinel/_data/{name}" for folder in DATA for name in shipped_files(folder)}
    assert expected
    assert expected - names == set()


def test_nothing_else_ships(names: set[str], wheel: Path) -> None:
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, info}
    assert [name for name in names if "__pycache__" in name] == []
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= names


def test_an_unpacked_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from sentinel.resources import data_path; print(data_path('configs'))"
    # -I: neither the current folder nor PYTHONPATH; the checkout's own path entry comes after ours.
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    assert Path(result.stdout.strip()) == tmp_path / "sentinel/_data/configs"


def test_a_checkout_finds_its_own_files() -> None:
    assert resources.data_path("configs") == ROOT / "configs"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"configs/absent\.yaml"):
        resources.data_path("configs", "absent.yaml")
