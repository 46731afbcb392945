"""What the doctor says of the folder of adapters, and of the recipe's rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.doctor.adapter_store import check_ranks, check_store, closed_above, needing_store
from daemon.doctor.report import Finding, Level
from sentinel.settings import Settings
from trainer.finetune.recipe import load_recipe


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """With one adapter, as a promotion leaves it."""
    made = tmp_path / "adapters"
    adapter = made / "chat-0123456789ab"
    adapter.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
        (adapter / name).chmod(0o640)
    adapter.chmod(0o750)
    made.chmod(0o2750)
    return made


def check(store: Path) -> list[Finding]:
    """Without the folders above, which are pytest's."""
    found = check_store(store, same_host=False)
    assert all(finding.remedy for finding in found if finding.level is not Level.OK)
    return found


def test_a_store_as_promotions_leave_it(store: Path) -> None:
    (store / ".incoming-half").mkdir(mode=0o700)
    assert check(store) == []


def test_a_store_that_is_not_here(tmp_path: Path) -> None:
    (found,) = check(tmp_path / "absent")
    assert found.level is Level.OK
    assert "not on this host" in found.message


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o2700, "cannot read"), (0o2710, "cannot read"), (0o2757, "every user can put weights")],
)
def test_the_mode_of_the_store(store: Path, mode: int, said: str) -> None:
    store.chmod(mode)
    (found,) = check(store)
    assert found.level is Level.FAIL
    assert said in found.message
    assert f"{mode & 0o777:04o}"[-3:] in found.message


def test_adapters_that_the_group_cannot_read(store: Path) -> None:
    folder = store / "chat-0123456789ab"
    (folder / "adapter_model.safetensors").chmod(0o600)
    (found,) = check(store)
    assert found.level is Level.FAIL
    assert "cannot read chat-0123456789ab/adapter_model.safetensors in" in found.message
    folder.chmod(0o700)
    (found,) = check(store)
    assert "cannot read chat-0123456789ab in" in found.message
    for number in range(5):
        (store / f"more-{number}").mkdir(mode=0o700)
    (found,) = check(store)
    assert "more-0, more-1 and 3 more" in found.message


def test_a_folder_above_that_nobody_may_pass(store: Path) -> None:
    store.parent.chmod(0o700)
    assert store.parent in closed_above(store)
    (found,) = check_store(store)
    assert found.level is Level.WARN
    assert "lets neither it nor others pass" in found.message
    # The topmost one is named first: behind it nothing else can be seen.
    assert f"chmod o+x {closed_above(store)[-1]}, " in found.remedy
    store.parent.chmod(0o710)
    assert store.parent not in closed_above(store)


def settings(recipe: str, rank: int) -> Settings:
    served = {
        "chat": {
            "public_name": "chat",
            "base": "b",
            "replicas": ["http://127.0.0.1:9"],
            "max_lora_rank": rank,
        },
        "watched": {"public_name": "watched", "base": "b", "max_lora_rank": 1},
    }
    return Settings.model_validate({"served_models": served, "training": {"recipe": recipe}})


def test_the_recipe_s_rank_is_held_against_the_replicas() -> None:
    assert needing_store(settings("default", 16)) == ["chat"]
    assert check_ranks(settings("default", 16)) == []
    (found,) = check_ranks(settings("default", 8))
    assert found.level is Level.FAIL
    assert "rank 16, above max_lora_rank 8" in found.message
    assert "--max-lora-rank" in found.remedy


@pytest.mark.parametrize(
    ("text", "rank"), [("lora: {rank: 4}", 4), ("lora: {}", 16), ("method: sft", 16), ("", 16)]
)
def test_a_recipe_of_one_s_own(tmp_path: Path, text: str, rank: int) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_recipe(path).lora.rank == rank
    assert check_ranks(settings(str(path), rank)) == []
    (found,) = check_ranks(settings(str(path), rank - 1))
    assert f"rank {rank}, above max_lora_rank {rank - 1}" in found.message


@pytest.mark.parametrize("text", ["lora: {rank: many}", "lora: [", "- 1", "lora:", "lora: 1"])
def test_what_is_wrong_with_a_recipe_the_trainer_says(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert check_ranks(settings(str(path), 2)) == []
    assert check_ranks(settings(str(tmp_path / "absent.yaml"), 2)) == []
    assert check_ranks(settings("no-such-recipe", 2)) == []
