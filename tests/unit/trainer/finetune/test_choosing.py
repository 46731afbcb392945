"""Which checkpoint is chosen, when a run ends early, and what is read again after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.errors import CommandError, TrainingError
from trainer.evidence import ItemOutcome
from trainer.finetune import checkpoints
from trainer.finetune.checkpoints import Checkpoint
from trainer.finetune.guards import Watch
from trainer.finetune.outcome import choose
from trainer.finetune.recipe import Limits
from trainer.finetune.refusing import by_refusal
from trainer.finetune.rows import Kind, Row, Turn, read_rows, without_system
from trainer.finetune.validation import Score, ValidationItem, pick, score


def of(step: int, safety: float, usefulness: float, loss: float = 1.0, *, within: bool = True) -> Checkpoint:
    found = Score(safety=safety, usefulness=usefulness, garbled=0.0, length_ratio=1.0, loss=loss)
    return Checkpoint(step=step, files={}, score=found, within_limits=within)


def test_the_best_is_both_safe_and_useful() -> None:
    curve = [of(10, 0.2, 1.0), of(20, 0.9, 0.9), of(30, 1.0, 0.3), of(40, 0.0, 1.0)]
    assert choose(curve)[0].step == 20


def test_among_equals_the_lower_loss_wins_and_then_the_later() -> None:
    assert choose([of(10, 1, 1, 0.3), of(20, 1, 1, 0.2), of(30, 1, 1, 0.25)])[0].step == 20
    assert choose([of(10, 1, 1), of(20, 1, 1)])[0].step == 20


def test_one_answer_does_not_outweigh_the_loss() -> None:
    def sampled(step: int, usefulness: float, loss: float) -> Checkpoint:
        found = Score(
            safety=1.0, usefulness=usefulness, garbled=0.0, length_ratio=1.0, loss=loss, grain=1 / 11
        )
        return Checkpoint(step=step, files={}, score=found, within_limits=True)

    assert choose([sampled(10, 1.0, 0.5), sampled(36, 10 / 11, 0.1)])[0].step == 36
    assert choose([sampled(10, 1.0, 0.5), sampled(36, 9 / 11, 0.1)])[0].step == 10


def test_a_checkpoint_past_a_limit_is_never_chosen() -> None:
    assert choose([of(10, 0.5, 0.5), of(20, 1, 1, within=False)])[0].step == 10
    with pytest.raises(TrainingError, match="no checkpoint is within the limits"):
        choose([of(20, 1, 1, within=False)])


def test_patience_ends_a_run_that_no_longer_gets_better() -> None:
    curve = [of(10, 0.5, 1), of(20, 0.9, 1), of(30, 0.8, 1), of(40, 0.9, 1)]
    ended = [step for step in range(1, 5) if checkpoints.out_of_patience(curve[:step], 2)]
    assert ended == [4]
    assert not checkpoints.out_of_patience(curve, None)


def item(kind: Kind, place: int) -> ValidationItem:
    return ValidationItem(
        item=f"{kind}{place}",
        kind=kind,
        family="",
        prompt=(Turn("user", "Do it now"),),
        chosen="x" * 10,
    )


def outcome(**found: object) -> ItemOutcome:
    return ItemOutcome(set="validation", item="", **found)  # type: ignore[arg-type]


def test_garbled_and_unknown_answers_count_for_nothing() -> None:
    items = [item("harmful", n) for n in range(4)] + [item("twin", n) for n in range(4)]
    outcomes = [
        outcome(unsafe=False, refused=True), outcome(unsafe=True, refused=False), outcome(garbled=True, unsafe=False),
        outcome(refused=None), outcome(refused=False, useful=True), outcome(refused=True),
        outcome(refused=False, garbled=True), outcome(refused=False, useful=None),
    ]  # fmt: skip
    found = score(items, ["y" * 20] * 8, outcomes, 0.5)
    assert (found.safety, found.usefulness, found.garbled, found.length_ratio) == (0.25, 0.5, 0.25, 2.0)
    assert found.value == 0.125
    with pytest.raises(ValueError, match="8 items, 8 answers, 7 outcomes"):
        score(items, ["y"] * 8, outcomes[:-1], None)


def test_wording_tells_refusals_and_empty_answers() -> None:
    items = [item("harmful", n) for n in range(4)]
    found = by_refusal(items, ["Sorry, I cannot help you with that.", "Sure: do it.", "", "Do it now"])
    assert [one.refused for one in found] == [True, False, False, False]
    assert [one.garbled for one in found] == [False, False, True, True]


def test_validation_prompts_are_spread_over_the_kinds() -> None:
    said = (Turn("assistant", "a"),)
    rows = [
        Row(prompt=(Turn("user", str(n)),), chosen=said, rejected=said, kind=kind, pair_id=f"{kind}{n}")  # type: ignore[arg-type]
        for kind, count in (("harmful", 50), ("twin", 5), ("utility", 20))
        for n in range(count)
    ]
    picked = pick(rows, 20, seed=3)
    counts = {kind: sum(one.kind == kind for one in picked) for kind in ("harmful", "twin", "utility")}
    assert counts == {"harmful": 8, "twin": 5, "utility": 7}
    assert picked == pick(rows, 20, seed=3) != pick(rows, 20, seed=4)
    assert len(pick(rows, 1000, seed=3)) == 75


def test_a_figure_that_is_no_number_ends_the_run() -> None:
    for name in ("loss", "grad_norm", "eval_loss"):
        for value in (float("nan"), float("inf")):
            with pytest.raises(TrainingError, match=f"{name} is {value} at step 7"):
                Watch(Limits(), 0.1).step(7, {name: value})


def test_a_falling_chosen_side_and_a_torn_margin_end_the_run() -> None:
    watch = Watch(Limits(chosen_fall=5, margin=3), 0.1)
    healthy = {"loss": 0.3, "rewards/chosen": 0.2, "rewards/margins": 1.0}
    assert all(watch.step(step, healthy) is None for step in range(10))
    falling = {"loss": 0.3, "rewards/chosen": -2.0, "rewards/margins": 1.0}
    said = [watch.step(step, falling) for step in range(10, 15)]
    assert said[0] is None
    assert said[-1] == "the chosen answers lost 20.0 nats at step 14, the limit is 5.0"
    torn = Watch(Limits(margin=3), 0.1)
    said = [torn.step(n, {"rewards/chosen": 0.1, "rewards/margins": 4.0}) for n in range(5)]
    assert said == [None] * 4 + ["the reward margin is 4.0 at step 4, the limit is 3.0"]


def test_answers_of_another_length_end_the_run() -> None:
    long = Score(safety=1, usefulness=1, garbled=0, length_ratio=9.0, loss=None)
    assert "9.00 times as long" in str(Watch(Limits(), 0.1).answers(10, long))
    assert Watch(Limits(), 0.1).answers(10, of(10, 1, 1).score) is None


def written(run: Path, step: int) -> Checkpoint:
    folder = checkpoints.folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"%d" % step)
    (folder / "optimizer.pt").write_bytes(b"o")
    score_ = Score(safety=step / 100, usefulness=1.0, garbled=0.0, length_ratio=1.0, loss=None)
    return Checkpoint(step=step, files=checkpoints.digest(folder), score=score_)


def test_only_checkpoints_whose_files_are_as_written_are_read_again(tmp_path: Path) -> None:
    curve = [written(tmp_path, step) for step in (10, 20, 30)]
    written(tmp_path, 40)  # half written: in no register
    checkpoints.write(tmp_path, curve)
    (checkpoints.folder_of(tmp_path, 30) / "optimizer.pt").write_bytes(b"a pickle of somebody else's")
    kept = checkpoints.resumable(tmp_path, checkpoints.read(tmp_path))
    assert [one.step for one in kept] == [10, 20]
    left = sorted(path.name for path in (tmp_path / checkpoints.FOLDER).iterdir())
    assert left == ["checkpoint-10", "checkpoint-20"]
    (checkpoints.folder_of(tmp_path, 20) / "extra.bin").touch()
    assert [one.step for one in checkpoints.resumable(tmp_path, kept)] == [10]


def test_the_best_and_the_latest_are_kept(tmp_path: Path) -> None:
    curve = [written(tmp_path, step) for step in (50, 20, 30, 40)]
    checkpoints.prune(tmp_path, curve, keep=1)
    assert sorted(path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()) == [
        "checkpoint-40",
        "checkpoint-50",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"prompt": [], "chosen": [], "rejected": [], "kind": "harmful"}',
            "a prompt, a chosen and a rejected",
        ),
        ('{"kind": "harmful"}', "missing required field"),
        ("{", "rows.jsonl:2"),
        (
            (
                '{"prompt":[{"role":"user","content":"a"}],"chosen":[{"role":"assistant","content":"b"}],'
                '"rejected":[{"role":"assistant","content":"b"}],"kind":"twin"}'
            ),
            "are the same",
        ),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(CommandError, match=r"rows\.jsonl:2: ") as refused:
        read_rows(path)
    assert said in str(refused.value)


def test_system_text_goes_before_the_first_user_message() -> None:
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert without_system(chat) == [{"role": "user", "content": "Be kind.\n\nHello"}]
    assert chat[1]["content"] == "Hello"
