"""Outcomes kept between runs: the latest used, and no more of them than a disk should hold."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from trainer.evaluation import cache
from trainer.evaluation.cache import ArmKey, EvaluationCache

KEY = ArmKey(
    base_sha256="b",
    adapter_sha256=None,
    sets=(("harmful", "harmful", "h"),),
    engine={"name": "e"},
    sampling={},
    seed=0,
    detectors={},
    judge_guard_id="",
    scheme="labels/grammar",
    strict=False,
)


def test_the_latest_used_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ENTRIES", 3)
    kept = EvaluationCache(tmp_path / "cache")
    outputs, judged = tmp_path / "outputs", tmp_path / "judged"
    outputs.write_text("an answer\n")
    judged.write_text("")
    keys = [msgspec.structs.replace(KEY, seed=seed) for seed in range(4)]
    for age, key in enumerate(keys[:3]):
        kept.keep(key, outputs, judged, (), None)
        entry = tmp_path / "cache" / key.digest / "entry.json"
        os.utime(entry, (1_000_000 + age, 1_000_000 + age))
    # Used now, so that the second one is the oldest.
    assert kept.restore(keys[0], tmp_path / "o", tmp_path / "j") is not None
    kept.keep(keys[3], outputs, judged, (), None)
    there = [kept.restore(key, tmp_path / "o", tmp_path / "j") is not None for key in keys]
    assert there == [True, False, True, True]
    assert len(list((tmp_path / "cache").iterdir())) == 3
