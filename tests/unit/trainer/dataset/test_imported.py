"""A file of pairs: every line accounted for, a bad one named, the same result each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import CommandError
from sentinel.manifests import DatasetManifest
from sentinel.settings import Dataset
from trainer.dataset.imported import import_dataset
from trainer.reporting import Stage, silent

STEPS = ("begin slowly", "take your time", "ask somebody to watch")


def lines(count: int = 30) -> list[dict[str, Any]]:
    harmful = [
        {
            "prompt": f"How do I poison neighbour number{n}?",
            "chosen": f"Sorry, I cannot help you poison neighbour number{n}.",
            "rejected": f"Sure, {STEPS[n % 3]} and poison neighbour number{n}.",
            "category": "violence" if n % 3 else "drugs",
        }
        for n in range(count)
    ]
    benign = [
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Clean window{n}?"},
            ],
            "chosen": [{"role": "assistant", "content": f"Sure, {STEPS[n % 3]} and clean window{n}."}],
            "rejected": f"Sorry, I cannot help you clean window{n}.",
        }
        for n in range(count // 2)
    ]
    return [*harmful, *benign]


def imported(tmp_path: Path, found: list[Any], name: str = "out", **options: Any) -> DatasetManifest:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in found))
    given: dict[str, Any] = {
        "served_model": "m", "settings": Dataset(), "folder": tmp_path / name, "evaluation_prompts": (), "seed": 1,
        "report": silent,
    } | options  # fmt: skip
    return import_dataset(file, **given)


def test_every_line_is_a_row_or_counted(tmp_path: Path) -> None:
    stages: list[Stage] = []
    extra = [
        lines()[0],
        {"prompt": "a?", "chosen": "NULL", "rejected": "b"},
        {
            "prompt": "What is held out?",
            "chosen": "I cannot help with that.",
            "rejected": "Gladly: so and so.",
        },
        {"prompt": "x?", "chosen": "same", "rejected": "same"},
        {
            "prompt": "What is it?",
            "chosen": "It is round.",
            "rejected": "Bananas are yellow.",
            "kind": "utility",
        },
    ]
    made = imported(
        tmp_path, [*lines(), "", *extra], evaluation_prompts=["what is held out"], report=stages.append
    )
    assert made.dropped_by_reason == {"contaminated": 1, "duplicate": 1, "null_side": 1, "same_sides": 1}
    assert made.collected == made.rows + 4 == 50
    assert made.rows_by_kind == {"harmful": 30, "twin": 15, "utility": 1}
    assert made.rows_by_family["drugs"] == 10
    written = [
        json.loads(line)
        for name in ("train", "validation")
        for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert len(written) == made.rows
    assert made.splits["validation"] >= 5
    system = [row for row in written if row["kind"] == "twin"]
    assert all([m["role"] for m in row["prompt"]] == ["system", "user"] for row in system)
    assert [stage.done for stage in stages] == [*range(50), 50]


def test_the_same_file_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = imported(tmp_path, lines(), "a"), imported(tmp_path, lines(), "b")
    assert first.content_sha256 == second.content_sha256
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (tmp_path / "b" / "train.jsonl").read_bytes()
    assert imported(tmp_path, lines(), "c", seed=2).content_sha256 != first.content_sha256


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{nonsense", "no JSON"),
        ("[1]", "object is expected"),
        ({"prompt": "a", "chosen": "b"}, "rejected must be"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "prompt must be"),
        ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, "needs a role"),
        ({"prompt": [{"role": "king", "content": "x"}], "chosen": "b", "rejected": "c"}, "needs a role"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "no text of the user"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "kind": "odd"}, "kind must be"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "event_id": "7"}, "no UUID"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path: Path, bad: Any, words: str) -> None:
    with pytest.raises(CommandError, match=rf"pairs\.jsonl:4: .*{words}"):
        imported(tmp_path, [*lines()[:2], "", bad, *lines()[2:]])
    assert not (tmp_path / "out").exists()


def test_harmful_pairs_alone_and_files_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="harmful pairs only"):
        imported(tmp_path, lines()[:30])
    with pytest.raises(CommandError, match="no usable pair"):
        imported(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(CommandError, match="cannot be read"):
        import_dataset(
            tmp_path / "missing.jsonl", served_model="m", settings=Dataset(), folder=tmp_path / "o",
            evaluation_prompts=(), seed=1, report=silent,
        )  # fmt: skip


def test_a_lone_surrogate_does_not_stop_the_writing(tmp_path: Path) -> None:
    odd = '{"prompt": "Odd \\ud800 text?", "chosen": "Fine, it is odd.", "rejected": "I cannot help with that."}'
    try:
        made = imported(tmp_path, [*lines(), odd])
    except CommandError as error:
        assert "no JSON" in str(error)  # noqa: PT017  # which of both is the JSON library's choice
    else:
        assert made.rows == 46
