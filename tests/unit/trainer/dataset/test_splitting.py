"""No group in both splits, no row lost, and the same split each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.events import Message
from trainer.dataset.rows import Row, RowKind, asked
from trainer.dataset.splitting import groups_of, split

ROOT = Path(__file__).resolve().parents[4]
WORDS = st.lists(
    st.sampled_from(["how", "to", "bake", "stab", "the", "old", "new", "baker", "bread", "now"]),
    min_size=1,
    max_size=9,
)
ROWS = st.lists(
    st.tuples(WORDS, st.sampled_from(list(RowKind)), st.sampled_from(["x", "y"])), min_size=1, max_size=40
)


def rows_of(drawn: list[tuple[list[str], RowKind, str]]) -> list[Row]:
    return [
        Row(
            kind=kind, row_id=UUID(int=at), prompt=(Message("user", " ".join(words)),), chosen="c", rejected="r",
            family=family, event_id=None,
        )
        for at, (words, kind, family) in enumerate(drawn)
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 5), st.sampled_from([0.1, 0.15, 0.4]))
def test_a_split_keeps_groups_whole(
    drawn: list[tuple[list[str], RowKind, str]], seed: int, share: float
) -> None:
    rows = rows_of(drawn)
    groups = groups_of(rows, 0.8)
    train, validation = split(rows, groups, share=share, seed=seed)
    assert sorted(row.row_id for row in (*train, *validation)) == [row.row_id for row in rows]
    of = dict(zip((row.row_id for row in rows), groups, strict=True))
    assert not {of[row.row_id] for row in train} & {of[row.row_id] for row in validation}
    assert not {asked(row.prompt) for row in train} & {asked(row.prompt) for row in validation}
    assert bool(validation) == (len(set(groups)) > 1)
    assert len(validation) <= max(share * len(rows), len(rows) / 2)
    again = split(list(rows), list(groups), share=share, seed=seed)
    assert again == (train, validation)


def test_every_category_is_in_the_validation_split_by_its_share() -> None:
    drawn = [
        ([f"word{n}", f"other{n}"], kind, family)
        for n, (kind, family) in enumerate(
            [(RowKind.HARMFUL, "x")] * 40 + [(RowKind.HARMFUL, "y")] * 20 + [(RowKind.TWIN, "benign")] * 20
        )
    ]
    rows = rows_of(drawn)
    _, validation = split(rows, groups_of(rows, 0.8), share=0.15, seed=1)
    counts = {
        key: sum((row.kind, row.family) == key for row in validation)
        for key in {(r.kind, r.family) for r in rows}
    }
    assert counts == {
        (RowKind.HARMFUL, "x"): 6,
        (RowKind.HARMFUL, "y"): 3,
        (RowKind.TWIN, "benign"): 3,
    }
    _, other = split(rows, groups_of(rows, 0.8), share=0.15, seed=2)
    assert {row.row_id for row in other} != {row.row_id for row in validation}


PROGRAM = """
import json, sys
from pathlib import Path
from sentinel.settings import Dataset
from trainer.dataset.imported import import_dataset
from trainer.reporting import silent
folder = Path(sys.argv[1])
pairs = folder / "pairs.jsonl"
import_dataset(
    pairs, served_model="chat", settings=Dataset(), folder=folder / sys.argv[2], evaluation_prompts=(), seed=4,
    report=silent,
)
"""


def test_the_same_seed_makes_the_same_split_in_another_process(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": f"How do I {verb} a {thing}?",
            "chosen": f"No, to {verb} a {thing} would hurt somebody.",
            "rejected": f"Take the {thing}, {verb} it {how}, and tell nobody about any of it.",
            "category": thing,
        }
        for verb in ("steal", "forge", "poison", "burn", "hide")
        for thing in ("parcel", "letter", "well", "barn")
        for how in ("quickly", "at night")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    # Sets and hashes of strings come in another order in each.
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), seed],
            env={"PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            timeout=240,
        )
    for name in ("train.jsonl", "validation.jsonl"):
        content = (tmp_path / "1" / name).read_bytes()
        assert content
        assert content == (tmp_path / "2" / name).read_bytes()
