"""``sentinel tiny`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sentinel.tiny.artefacts import Model, shipped


def sentinel(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli", "tiny", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_show_prints_what_lies_beside_the_weights() -> None:
    table = sentinel("show", "--only", "guard-a")
    assert table.returncode == 0, table.stderr
    assert "tiny-guard-a: held-out rates" in table.stdout
    assert "files verified" in table.stdout
    listed = json.loads(sentinel("show", "--json").stdout)
    assert [one["manifest"]["model"] for one in listed] == [model.value for model in Model]
    recorded = json.loads((shipped(Model.CHAT) / "evaluation.json").read_text())
    assert listed[0]["evaluation"] == recorded


def test_show_refuses_what_is_not_there(tmp_path: Path) -> None:
    result = sentinel("show", "--in", str(tmp_path))
    assert result.returncode == 78
    assert "no finished model" in result.stderr


def test_an_unknown_model_is_refused() -> None:
    result = sentinel("build", "--only", "chat,guard-c")
    assert result.returncode == 2
    assert "guard-c" in result.stderr


def test_build_makes_a_folder_that_show_accepts(tmp_path: Path) -> None:
    result = sentinel("build", "--only", "chat", "--out", str(tmp_path), "--steps", "4", "--samples", "4")
    assert result.returncode == 0, result.stderr
    assert "step 4 of 4" in result.stderr
    assert "Warning" not in result.stderr
    assert "n 4" in result.stdout
    assert sentinel("show", "--in", str(tmp_path), "--only", "chat").returncode == 0
    assert not (tmp_path / "tiny-guard-a").exists()
