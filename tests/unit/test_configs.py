"""Every shipped configuration file can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT / "configs", ROOT / "dashboards"]


def files(*suffixes: str) -> list[Path]:
    return sorted(
        path for folder in FOLDERS if folder.is_dir() for path in folder.rglob("*") if path.suffix in suffixes
    )


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_some() -> None:
    assert relative(ROOT / "configs/sentinel.yaml") in map(relative, files(".yaml"))
    assert len(files(".json")) >= 3


@pytest.mark.parametrize("path", files(".yaml", ".yml"), ids=relative)
def test_yaml_loads(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", files(".json"), ids=relative)
def test_json_loads_and_schemas_are_schemas(path: Path) -> None:
    loaded = json.loads(path.read_text())
    assert isinstance(loaded, dict)
    if path.name.endswith(".schema.json"):
        Draft202012Validator.check_schema(loaded)
        assert loaded["$schema"].endswith("/2020-12/schema")
        assert loaded["title"]


def test_every_file_is_of_a_kind_that_is_looked_at() -> None:
    known = {".yaml", ".yml", ".json", ".md", ".service", ".slice", ".target", ".timer", ".conf", ".socket"}
    unknown = [
        relative(path)
        for folder in FOLDERS
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in known
    ]
    assert unknown == []
