"""A smaller rebuild: the loss falls, the model beats chance, the same seed gives the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.tiny.artefacts import MANIFEST, Manifest, Model, evaluation_of, shipped, verify
from trainer.tiny import building
from trainer.tiny.fitting import Progress

STEPS = 100


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    folder = tmp_path_factory.mktemp("first") / Model.GUARD_B.value
    return folder, small(folder)


def small(folder: Path, steps: int = STEPS) -> list[Progress]:
    seen: list[Progress] = []
    building.build(
        building.RECIPES[Model.GUARD_B],
        folder,
        chat=shipped(Model.CHAT),
        steps=steps,
        samples=20,
        report=seen.append,
    )
    return seen


def test_a_small_rebuild_learns(first: tuple[Path, list[Progress]]) -> None:
    folder, seen = first
    assert len(seen) == STEPS
    assert seen[-1].loss < 0.5 * seen[0].loss
    labels = {
        (one.condition, one.requests): rate.value
        for one in evaluation_of(folder).measured
        for name, rate in one.rates.items()
        if name.startswith("called") and rate.value is not None
    }
    refusals = [rate for key, rate in labels.items() if key[0] == "corpus refusal"]
    # Of the unsafe, the safe and what cannot be parsed, chance would be right a third of the time at most.
    assert len(refusals) == 4
    assert min(refusals) > 0.6


def test_a_rebuild_has_a_manifest_that_holds(first: tuple[Path, list[Progress]]) -> None:
    folder, seen = first
    manifest = verify(folder)
    assert isinstance(manifest, Manifest)
    assert manifest.steps == STEPS
    assert manifest.tokens == seen[-1].tokens
    assert set(manifest.files) | {MANIFEST} == {path.name for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        small(folder, steps=3)
    one, two = (verify(folder) for folder in folders)
    assert one.files == two.files
