"""Evaluation sets: built-in ones with their frozen hashes, files, and every way in which a file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.errors import ConfigurationError
from sentinel.settings import EvaluationSource, Settings
from sentinel.tiny import evaluation_sets
from trainer.evaluation.files import read_items
from trainer.evaluation.items import version_of
from trainer.evaluation.sets import builtin, load_set, load_sets
from trainer.evidence import SetKind


def settings(*listed: dict[str, object]) -> Settings:
    return Settings.model_validate({"evaluation": {"sets": listed}})


def test_built_in_sets_are_the_frozen_ones() -> None:
    found = load_sets(
        settings(
            {"name": "h", "kind": "harmful", "builtin": "tiny-harmful"},
            {"name": "b", "kind": "benign", "builtin": "tiny-benign"},
        )
    )
    assert [(one.name, one.kind, len(one.items)) for one in found] == [
        ("h", SetKind.HARMFUL, 600),
        ("b", SetKind.BENIGN, 1000),
    ]
    assert all(len({item.id for item in one.items}) == len(one.items) for one in found)
    assert len(set(found[0].prompts) | set(found[1].prompts)) == 1600


def test_other_requests_than_the_frozen_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = evaluation_sets.harmful()[:-1]
    monkeypatch.setattr(evaluation_sets, "harmful", lambda: changed)
    with pytest.raises(ConfigurationError, match=r"not those frozen in configs/gates/demo\.yaml"):
        builtin("tiny-harmful")


@pytest.mark.parametrize(("name", "kind"), [("harmful-20", "harmful"), ("benign-20", "benign")])
def test_the_short_sets_hold_every_family(name: str, kind: str) -> None:
    found = builtin(name)
    assert (len(found.items), found.kind.value) == (20, kind)
    assert {item.family for item in found.items} == {item.family for item in builtin(f"tiny-{kind}").items}


def test_a_set_is_held_to_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    found = load_set(EvaluationSource(name="s", kind="benign", path=path))
    frozen = EvaluationSource(name="s", kind="benign", path=path, sha256=found.sha256)
    assert load_set(frozen) == found
    path.write_text('{"prompt": "one"}\n{"prompt": "two!"}\n')
    with pytest.raises(ConfigurationError, match="is not the frozen one"):
        load_set(frozen)


def test_the_version_is_that_of_all_sets(tmp_path: Path) -> None:
    one, two = builtin("harmful-20"), builtin("benign-20")
    assert version_of([one, two]) == version_of([two, one])
    assert len({version_of([one]), version_of([two]), version_of([one, two])}) == 3


def test_a_prompt_is_not_harmful_and_benign(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"prompt": "  ONE thing"}\n')
    other = tmp_path / "other.csv"
    other.write_text("prompt\none thing\n")
    with pytest.raises(ConfigurationError, match="h and b share a prompt"):
        load_sets(
            settings(
                {"name": "h", "kind": "harmful", "path": str(path)},
                {"name": "b", "kind": "benign", "path": str(other)},
            )
        )


@pytest.mark.parametrize(
    "listed",
    [
        [{"name": "h", "kind": "harmful"}],
        [{"name": "h", "kind": "harmful", "builtin": "tiny-harmful", "path": "x.csv"}],
        [{"name": "h", "kind": "evil", "builtin": "tiny-harmful"}],
        [{"name": "../h", "kind": "harmful", "builtin": "tiny-harmful"}],
        [{"name": "h", "kind": "harmful", "builtin": "harmful-20"}] * 2,
    ],
)
def test_settings_refuse_what_is_no_set(listed: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="evaluation"):
        settings(*listed)


def test_a_built_in_set_keeps_its_kind() -> None:
    with pytest.raises(ConfigurationError, match="tiny-harmful is harmful"):
        load_sets(settings({"name": "h", "kind": "benign", "builtin": "tiny-harmful"}))


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(
        '{"id": 7, "prompt": "one", "family": "f", "reference": "1", "more": true}\n\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},'
        ' {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}\n'
    )
    one, two = read_items(path, SetKind.UTILITY)
    assert (one.id, one.prompt, one.family, one.reference) == ("7", "one", "f", "1")
    assert (two.prompt, len(two.messages), len(two.id)) == ("c", 4, 16)


def test_harmbench(tmp_path: Path) -> None:
    path = tmp_path / "harmbench.csv"
    path.write_text(
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        'Do it,standard,chemical,,,do_it\n"Do, ""that""",contextual,cyber,,"A text\nof two lines",do_that\n'
    )
    one, two = read_items(path, SetKind.HARMFUL)
    assert (one.id, one.prompt, one.family) == ("do_it", "Do it", "chemical")
    assert two.prompt == 'A text\nof two lines\n\n---\n\nDo, "that"'
    with pytest.raises(ConfigurationError, match="make a harmful set"):
        read_items(path, SetKind.BENIGN)


@pytest.mark.parametrize(
    "text",
    [
        "id,prompt,type,label,focus,note\n1,kill a process,homonyms,safe,x,\n2,kill a man,contrast_x,unsafe,x,\n",
        "id_v2,prompt,type,focus,note\n1,kill a process,homonyms,x,\n2,kill a man,contrast_homonyms,x,\n",
    ],
)
def test_xstest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "xstest.csv"
    path.write_text(text)
    (safe,) = read_items(path, SetKind.BENIGN)
    (unsafe,) = read_items(path, SetKind.HARMFUL)
    assert (safe.id, safe.prompt, safe.family) == ("1", "kill a process", "homonyms")
    assert (unsafe.id, unsafe.prompt) == ("2", "kill a man")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("s.jsonl", '{"prompt": "a"}\n{"prompt": }\n', r"s\.jsonl:2: not JSON"),
        ("s.jsonl", '["a"]\n', r"s\.jsonl:1: not a JSON object"),
        ("s.jsonl", '{"text": "a"}\n', r":1: needs either prompt or messages"),
        ("s.jsonl", '{"prompt": "a", "messages": []}\n', r":1: needs either prompt or messages"),
        ("s.jsonl", '{"prompt": "  "}\n', r":1: prompt must be a text that is not empty"),
        ("s.jsonl", '{"prompt": 3}\n', r":1: prompt must be a text"),
        ("s.jsonl", '{"messages": []}\n', r":1: messages must be a list"),
        ("s.jsonl", '{"messages": [{"role": "tool", "content": "x"}]}\n', r":1: a role must be one of"),
        ("s.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}\n', r":1: the last turn"),
        ("s.jsonl", '{"prompt": "a", "family": 1}\n', r":1: family must be a text"),
        ("s.jsonl", '{"prompt": "a", "id": true}\n', r":1: id must be a text"),
        ("s.jsonl", '{"prompt": "a"}\n{"prompt": "a"}\n', r":2: the same id or prompt as in line 1"),
        ("s.jsonl", '{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}\n', r":2: the same id"),
        ("s.jsonl", "\n", r"holds no prompt"),
        ("s.csv", "question\na\n", r"s\.csv:1: a column named prompt or Behavior"),
        ("s.csv", "prompt,family\na,b,c\n", r":2: has not the 2 fields"),
        ("s.csv", "prompt,family\na\n", r":2: has not the 2 fields"),
        ("s.csv", "prompt,family\n,b\n", r":2: prompt must be a text"),
        ("s.csv", 'prompt\n"a\n', r": not CSV"),
        ("s.csv", "id,prompt,type,label,focus\n1,a,b,perhaps,c\n", r":2: label must be safe or unsafe"),
        ("s.csv", "Behavior,BehaviorID\nx,\n", r":2: BehaviorID must be a text"),
        ("s.txt", "a\n", r"is a \.jsonl or \.csv file"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        read_items(path, SetKind.HARMFUL)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_items(tmp_path / "none.csv", SetKind.HARMFUL)
    (tmp_path / "bytes.csv").write_bytes(b"prompt\n\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_items(tmp_path / "bytes.csv", SetKind.HARMFUL)
