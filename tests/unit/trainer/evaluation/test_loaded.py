"""Notes about loaded adapters: told once their evaluation is dead, and only once, and about one server."""

from __future__ import annotations

from pathlib import Path

from trainer.evaluation.loaded import LeftBehind, LoadedNote


def left(folder: Path, url: str = "http://one") -> set[str]:
    with LeftBehind.find(folder, url) as found:
        return found.names


def test_a_note_is_told_when_nobody_holds_it(tmp_path: Path) -> None:
    assert left(tmp_path / "none") == set()
    with LoadedNote.hold(tmp_path, "http://one") as note:
        note.add("a")
        note.add("b")
        assert left(tmp_path) == set()
    assert left(tmp_path, "http://other") == set()
    assert left(tmp_path) == {"a", "b"}
    with LeftBehind.find(tmp_path, "http://one") as first:
        assert left(tmp_path) == set()
        first.forget()
    assert left(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_was_forgotten_is_gone(tmp_path: Path) -> None:
    with LoadedNote.hold(tmp_path, "http://one") as note:
        note.add("a")
        note.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_note_without_a_line_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.names").write_bytes(b"")
    assert left(tmp_path) == set()
