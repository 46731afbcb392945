"""The documents say what is there: versions, commands, targets and links."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.md")])
FENCE = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_lines(document: Path) -> list[str]:
    return [
        line.removeprefix("$ ").split("#")[0].strip()
        for block in FENCE.findall(document.read_text())
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def test_the_documents_are_seen() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "DECISIONS.md"} <= names
    assert shell_lines(ROOT / "README.md")


def test_the_changelog_names_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions
    assert versions[0] in {PROJECT["version"], "Unreleased"}
    assert PROJECT["version"] in versions


def test_the_compose_file_runs_this_version() -> None:
    assert f"sentinel-loop:{PROJECT['version']}" in (ROOT / "compose.yaml").read_text()


def test_decisions_are_dated_newest_first() -> None:
    dates = re.findall(r"^## (\d{4}-\d{2}-\d{2}) ", (ROOT / "DECISIONS.md").read_text(), re.MULTILINE)
    headings = re.findall(r"^## ", (ROOT / "DECISIONS.md").read_text(), re.MULTILINE)
    assert dates
    assert len(dates) == len(headings)
    assert dates == sorted(dates, reverse=True)


def commands_named() -> list[tuple[str, ...]]:
    """``sentinel COMMAND [SUBCOMMAND]`` wherever a document writes it as code, without options and operands."""
    found: set[tuple[str, ...]] = set()
    for document in DOCUMENTS:
        code = [*shell_lines(document), *re.findall(r"`([^`\n]+)`", document.read_text())]
        for line in code:
            match = re.match(r"(?:\.venv/bin/)?sentinel((?: [a-z][a-z-]*)+)(?= |$)", line)
            if match:
                found.add(tuple(match.group(1).split()))
    return sorted(found)


def test_commands_are_seen() -> None:
    assert ("run",) in commands_named()


@pytest.mark.parametrize("words", commands_named(), ids=" ".join)
def test_commands_named_in_documents_exist(words: tuple[str, ...]) -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("sentinel"), *words, "--help"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # A group prints its own page for an unknown word in some libraries: the page must be this command's.
    assert f"sentinel {' '.join(words)} " in " ".join(result.stdout.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_named_in_documents_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
    named |= {word for line in shell_lines(document) for word in re.findall(r"^make ([a-z-]+)", line)}
    assert named - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_bare_make_explains_every_target() -> None:
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "check", "test", "demo", "bench"} <= set(phony)
    assert [target for target in phony if not re.search(rf"^  make {target} +\S", shown, re.MULTILINE)] == []
    assert "KAFKA_HOME" in shown


@pytest.mark.parametrize("arguments", [[], ["--no-train"]])
def test_make_demo_runs_the_demonstration(arguments: list[str]) -> None:
    # Given explicitly: under `make test` this make is handed what that one was given.
    make = ["make", "-n", "--no-print-directory", "demo", "SCENARIO=kill", f"ARGS={' '.join(arguments)}"]
    planned = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert planned[-1].split() == [".venv/bin/sentinel", "demo", *arguments]
