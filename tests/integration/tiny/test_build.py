"""A smaller rebuild: the loss falls, the model beats chance, the same seed gives the same files, also side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.clock import ManualClock
from sentinel.errors import ConfigurationError
from sentinel.tiny.artefacts import MANIFEST, Manifest, Model, evaluation_of, shipped, verify
from trainer.tiny import answering, building, together
from trainer.tiny.together import Moment, Stage

STEPS = 100


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Moment]]:
    out = tmp_path_factory.mktemp("first")
    return out / Model.GUARD_B.value, small(out, Model.GUARD_B, samples=20)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of what costs most where hardly anything is trained: texts for the tokenizer, and answers that never end."""
    monkeypatch.setattr(building, "TOKENIZER_ROWS", 300)
    monkeypatch.setattr(answering, "MAX_NEW_TOKENS", 3)


def small(
    out: Path, *models: Model, steps: int = STEPS, samples: int = 1, jobs: int = 1, chat: Path | None = None
) -> list[Moment]:
    seen: list[Moment] = []
    built = together.build(
        [building.RECIPES[model] for model in models],
        out,
        chat=chat or shipped(Model.CHAT),
        clock=ManualClock(),
        steps=steps,
        samples=samples,
        jobs=jobs,
        watch=seen.append,
    )
    assert [one.folder for one in built] == [out / model.value for model in models]
    return seen


def test_a_small_rebuild_learns(first: tuple[Path, list[Moment]]) -> None:
    folder, seen = first
    losses = [one.loss for one in seen if one.stage is Stage.TRAINING and one.loss is not None]
    assert len(losses) == STEPS
    assert losses[-1] < 0.5 * losses[0]
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


def test_a_rebuild_has_a_manifest_that_holds(first: tuple[Path, list[Moment]]) -> None:
    folder, _ = first
    manifest = verify(folder)
    assert isinstance(manifest, Manifest)
    assert manifest.steps == STEPS
    assert manifest.tokens > STEPS * 48 * 10
    assert set(manifest.files) | {MANIFEST} == {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("hurried")
def test_the_same_seed_gives_the_same_bytes_alone_and_beside_another_model(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    for model in (Model.GUARD_A, Model.GUARD_B):
        small(alone, model, steps=3)
    seen = small(beside, Model.GUARD_A, Model.GUARD_B, steps=3, jobs=2)
    for model in (Model.GUARD_A, Model.GUARD_B):
        assert verify(alone / model.value).files == verify(beside / model.value).files
        steps = [one.done for one in seen if (one.model, one.stage) == (model, Stage.TRAINING)]
        assert steps == [1, 2, 3]
        answers = [one.done for one in seen if (one.model, one.stage) == (model, Stage.MEASURING)]
        assert answers == sorted(set(answers))
        assert answers


@pytest.mark.usefixtures("hurried")
def test_a_guard_is_measured_on_the_chat_model_made_with_it(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    small(tmp_path, Model.CHAT, Model.GUARD_B, steps=1, jobs=2, chat=nowhere)
    assert verify(tmp_path / Model.GUARD_B.value).model is Model.GUARD_B
    assert verify(tmp_path / Model.CHAT.value).model is Model.CHAT
    # The other way it would have been needed.
    with pytest.raises(OSError, match="none"):
        small(tmp_path, Model.GUARD_B, steps=1, chat=nowhere)


@pytest.mark.usefixtures("hurried")
def test_a_watcher_that_fails_ends_the_build_and_leaves_no_manifest(tmp_path: Path) -> None:
    def watch(moment: Moment) -> None:
        if moment.model is Model.GUARD_B:
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal is gone"):
        together.build(
            [building.RECIPES[model] for model in (Model.GUARD_A, Model.GUARD_B)],
            tmp_path,
            chat=shipped(Model.CHAT),
            clock=ManualClock(),
            # Far more than the test's limit has room for: only the failure ends this.
            steps=100_000,
            watch=watch,
        )
    for model in (Model.GUARD_A, Model.GUARD_B):
        with pytest.raises(ConfigurationError, match="no finished model"):
            verify(tmp_path / model.value)
