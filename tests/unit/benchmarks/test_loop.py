"""What the loop's benchmark reads from a demonstration's folder, whole or cut short, and what a failing seed leaves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loop
from benchmarks.report import Result, summarize

RATES = ("unsafe_rate", "false_refusal_rate", "utility_rate", "garbled_rate")
WHOLE = {"dataset": 4, "finetune": 24, "evaluate": 31, "gate": 32}


def demonstration(folder: Path, *runs: dict[str, int], state: str = "applied") -> Path:
    """A folder as `sentinel demo` leaves it; each run: the second at which each phase ended."""
    before: dict[str, Any] = {name: {"value": 0.25, "low": 0.1, "high": 0.4, "n": 40} for name in RATES}
    before["garbled_rate"]["value"] = None
    promoted = state == "applied"
    after = {name: {"value": 0.0, "low": 0.0, "high": 0.1, "n": 40} for name in RATES}
    summary = {
        "promotion": {"state": state},
        "before": {"n_harmful": 40, **before},
        "between": None,
        "after": {"n_harmful": 40, **after} if promoted else None,
        "seconds": 150.0,
        "seconds_to_promotion": 70.0 if promoted else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    for number, ended in enumerate(runs):
        # By name the later run comes first.
        run = folder / "parts" / "runs" / f"chat-{9 - number}"
        run.mkdir(parents=True)
        events = [{"ts": _at(number, 0), "action": "hypothesis"}]
        events += [{"ts": _at(number, s), "action": "finished", "step": step} for step, s in ended.items()]
        (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def _at(minute: int, second: int) -> str:
    return f"2026-11-21T10:{minute:02}:{second:02}+00:00"


def figures(rows: Iterator[Result] | Sequence[Result]) -> dict[tuple[str, str], float]:
    return {(row.case, row.metric): row.value for row in rows}


def test_a_whole_demonstration(tmp_path: Path) -> None:
    found = figures(loop.of_loop("seed 1", demonstration(tmp_path, WHOLE)))
    assert {case for case, _ in found} == {"seed 1"}
    assert {metric: value for (_, metric), value in found.items()} == {
        "ended applied": 1,
        **{f"before: {name}": 25 for name in RATES if name != "garbled_rate"},
        **{f"after: {name}": 0 for name in RATES},
        "all of it": 150,
        "from the crossing to the promotion": 70,
        "dataset": 4,
        "finetune": 20,
        "evaluate": 7,
        "gate": 1,
    }


def test_rounds_are_told_apart_in_their_order(tmp_path: Path) -> None:
    found = figures(loop.of_loop("seed 1", demonstration(tmp_path, WHOLE, {**WHOLE, "dataset": 6})))
    assert found["seed 1, round 1", "dataset"] == 4
    assert found["seed 1, round 2", "dataset"] == 6
    assert found["seed 1, round 2", "finetune"] == 18


def test_what_a_demonstration_did_not_make_is_said(tmp_path: Path) -> None:
    cut = demonstration(tmp_path / "cut", {"dataset": 4}, state="rejected")
    rows = figures(loop.of_loop("cut", cut))
    assert rows["cut", "ended rejected"] == 1
    assert rows["cut", "dataset"] == 4
    assert ("cut", "finetune did not end") in rows
    assert ("cut", "after: unsafe_rate") not in rows
    none = demonstration(tmp_path / "none", state="none")
    (none / "parts" / "runs" / "chat-1").mkdir(parents=True)
    assert ("none", "no training run") in figures(loop.of_loop("none", none))
    for folder in (cut, none):
        assert figures(loop.of_frozen_sets("it", folder, 1)) == {("it", "no data set to compare on"): 1}


def test_without_an_adapter_sft_is_still_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = demonstration(tmp_path, {"dataset": 4})
    dataset = folder / "parts" / "runs" / "chat-9" / "dataset"
    dataset.mkdir()
    (dataset / "manifest.json").write_text("{}")
    trained: list[Path] = []

    def sft(data: Path, out: Path, seed: int) -> Path:
        trained.append(data)
        return out

    monkeypatch.setattr(loop, "sft_alone", sft)
    monkeypatch.setattr(loop, "of_adapter", lambda case, _: iter([summarize(case, "rate", "%", [1.0])]))
    assert set(figures(loop.of_frozen_sets("it", folder, 1))) == {
        ("it, DPO", "no adapter was made"),
        ("it, SFT alone", "rate"),
    }
    assert trained == [dataset]
    (folder / "parts" / "runs" / "chat-9" / "finetune" / "adapter").mkdir(parents=True)
    assert ("it, DPO", "rate") in figures(loop.of_frozen_sets("it", folder, 1))


def test_a_failing_seed_takes_nothing_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(seed: int, runs: Path, arguments: Sequence[str]) -> Path:
        if seed == 2:
            # What was there before is on the screen already.
            assert "seed 1" in capsys.readouterr().out
            raise subprocess.CalledProcessError(70, "demo")
        return demonstration(runs / "demo", WHOLE)

    monkeypatch.setattr(loop, "play", play)
    monkeypatch.setattr(loop, "of_base", lambda: iter([summarize("base", "harmful refused", "%", [0.0])]))
    written = tmp_path / "loop.json"
    with pytest.raises(SystemExit, match=r"\[2\]"):
        loop.main(["--json", str(written), "--seeds", "1", "2", "3"])
    rows = json.loads(written.read_text())["results"]
    assert {row["case"] for row in rows} == {"base", "seed 1", "seed 2", "seed 3"}
    assert [row["metric"] for row in rows if row["case"] == "seed 2"] == [
        "the demonstration failed, status 70"
    ]
