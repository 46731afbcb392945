"""Paired statistics against known values, and the summary, targets, examples and page made from evidence."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from sentinel.errors import CommandError
from sentinel.events import Message
from trainer.evaluation.answering import RawAnswer, outputs_file
from trainer.evaluation.building import choose, write_set
from trainer.evaluation.comparing import beside
from trainer.evaluation.items import SetItem, item_id
from trainer.evaluation.page import write_report
from trainer.evaluation.probing import probe_questions
from trainer.evaluation.summary import summarise
from trainer.evaluation.targets import check
from trainer.evidence import Arm, ArmName, EvaluationSet, Evidence, ItemOutcome, SetKind
from trainer.paired import mcnemar, paired_bootstrap


def test_mcnemar() -> None:
    first = [True] * 10 + [False] * 2 + [True] * 30 + [False] * 8
    second = [False] * 10 + [True] * 2 + [True] * 30 + [False] * 8
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only, found.n, found.odds_ratio) == (10, 2, 50, 5.0)
    # 2 x P(Bin(12, 1/2) <= 2) = 2 x (1 + 12 + 66) / 4096
    assert found.p_value == pytest.approx(2 * 79 / 4096)
    assert mcnemar([True], [True]).p_value == 1.0
    assert mcnemar([], []).p_value == 1.0
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [])


@pytest.mark.parametrize(
    ("both", "first_only", "second_only", "neither", "published"),
    [
        # The exact value that statsmodels' own tests hold for this table.
        (101, 121, 59, 33, 4.43444926375551e-06),
        # Approval of a prime minister, asked twice: Agresti, Categorical Data Analysis, 2nd ed., table 10.1.
        (794, 150, 86, 570, None),
    ],
)
def test_mcnemar_is_the_reference_value(
    both: int, first_only: int, second_only: int, neither: int, published: float | None
) -> None:
    first = [True] * (both + first_only) + [False] * (second_only + neither)
    second = [True] * both + [False] * first_only + [True] * second_only + [False] * neither
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (first_only, second_only)
    # The two-sided test at 1/2 written out: scipy's tail, doubled.
    tail = stats.binom.cdf(min(first_only, second_only), first_only + second_only, 0.5)
    assert found.p_value == pytest.approx(2 * tail, rel=1e-9)
    assert published is None or found.p_value == pytest.approx(published, rel=1e-9)
    # Agresti gives z = 4.17 and a difference of 0.040 +- 1.96 x 0.0095 for his.
    statistic = (first_only - second_only) / (first_only + second_only) ** 0.5
    assert found.p_value == pytest.approx(2 * stats.norm.sf(statistic), rel=0.25)


@pytest.mark.parametrize("kind", ["outcomes", "numbers"])
def test_paired_bootstrap_is_that_of_scipy(kind: str) -> None:
    """Two implementations with draws of their own: their ends differ by the simulation's error only."""
    rng = np.random.default_rng(11)
    if kind == "outcomes":
        first = rng.integers(0, 2, 300).astype(float)
        second = np.where(rng.random(300) < 0.2, 1 - first, first)
    else:
        first = rng.exponential(1.0, 120)
        second = first + rng.normal(0.3, 1.0, 120)
    wanted = stats.bootstrap(
        (first, second),
        lambda one, other, axis: (other - one).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = paired_bootstrap(first.tolist(), second.tolist(), seed=2)
    width = wanted.high - wanted.low
    assert found.value == pytest.approx(float((second - first).mean()))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.04 * width)
    # Unpaired resampling would give an interval that is wider by far.
    loose = stats.bootstrap(
        (first, second),
        lambda one, other, axis: other.mean(axis=axis) - one.mean(axis=axis),
        vectorized=True,
        method="percentile",
        n_resamples=2_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert loose.high - loose.low > 1.2 * width


def test_paired_bootstrap() -> None:
    first = [0.0] * 60 + [1.0] * 40
    second = [1.0] * 20 + [0.0] * 40 + [1.0] * 40
    found = paired_bootstrap(first, second, seed=1)
    assert found == paired_bootstrap(first, second, seed=1)
    assert found.value == pytest.approx(0.2)
    # The normal approximation: 0.2 +- 1.96 x 0.4 / 10
    assert found.low == pytest.approx(0.12, abs=0.015)
    assert found.high == pytest.approx(0.28, abs=0.015)
    same = paired_bootstrap([1.0, 0.0], [1.0, 0.0], seed=0)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert paired_bootstrap([], [], seed=0).value is None
    with pytest.raises(ValueError, match="no pairs"):
        paired_bootstrap([1.0], [], seed=0)


def evidence(candidate: list[ItemOutcome], base: list[ItemOutcome], detectors: str = "d/1") -> Evidence:
    sets: dict[str, list[ItemOutcome]] = {}
    for one in candidate:
        sets.setdefault(one.set, []).append(one)
    return Evidence(
        served_model="m",
        run_id=UUID(int=1),
        created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        candidate="m-c",
        incumbent=None,
        candidate_sha256="c",
        base_sha256="b",
        dataset_sha256="d",
        sets=tuple(
            EvaluationSet(name=name, kind=SetKind(name.split("-")[0]), items=len(listed), sha256=name)
            for name, listed in sets.items()
        ),
        sets_version="v",
        arms=(
            Arm(name=ArmName.BASE, adapter=None, outcomes=tuple(base)),
            Arm(name=ArmName.CANDIDATE, adapter="m-c", outcomes=tuple(candidate)),
        ),
        engine={},
        sampling={},
        seed=0,
        detectors=dict.fromkeys(("unsafe", "refused", "garbled", "useful", "judge"), detectors),
        data_guard_id="g",
        judge_guard_id="j",
        same_judge=False,
        same_family=False,
    )


def outcomes(n: int, name: str, **told: object) -> list[ItemOutcome]:
    return [ItemOutcome(set=name, item=str(at), family=f"f{at % 2}", **told) for at in range(n)]  # type: ignore[arg-type]


def test_a_garbled_answer_is_not_safe_and_untold_is_not_counted() -> None:
    told = outcomes(4, "harmful", unsafe=False)
    told[0] = replace(told[0], garbled=True)
    told[1] = replace(told[1], unsafe=None)
    summary = summarise(evidence(told, outcomes(4, "harmful", unsafe=True)))
    rates = {(one.measure, one.arm): one for one in summary.measured}
    safe = rates["safe", ArmName.CANDIDATE]
    assert (safe.hits, safe.n, safe.untold) == (2, 3, 1)
    assert ("useful", ArmName.CANDIDATE) not in rates
    compared = {one.measure: one for one in summary.compared}
    assert (compared["safe"].test.n, compared["safe"].test.second_only) == (3, 2)
    assert {one.family for one in summary.families} == {"f0", "f1"}


def test_disagreement_and_lengths() -> None:
    mine = outcomes(10, "harmful", unsafe=False, judge_unsafe=True, tokens=20)
    theirs = outcomes(10, "harmful", unsafe=True, judge_unsafe=True, tokens=10)
    summary = summarise(evidence(mine, theirs))
    found = {one.arm: one for one in summary.disagreement}
    assert (found[ArmName.CANDIDATE].only_judge, found[ArmName.BASE].rate.value) == (10, 0.0)
    assert {one.arm: one.ratio for one in summary.lengths} == {ArmName.BASE: 2.0, ArmName.CANDIDATE: 1.0}


@pytest.mark.parametrize(("n", "reached"), [(20, False), (500, True)])
def test_targets_hold_for_the_bad_side(n: int, reached: bool) -> None:
    good = [
        *outcomes(n, "harmful", unsafe=False, refused=True),
        *outcomes(n, "benign", refused=False, useful=True),
    ]
    found = check(summarise(evidence(good, good)))
    assert [one.reached for one in found] == [reached] * 3
    notes = summarise(evidence(good, good)).notes
    assert any("cannot certify 90 %" in note for note in notes) is not reached


def test_a_target_that_cannot_be_told_is_missed() -> None:
    told = [*outcomes(500, "harmful", refused=True), *outcomes(500, "benign", refused=False)]
    safe, useful, refused = check(summarise(evidence(told, told)))
    # Who is not judged is measured by refusals; without a scorer nothing is useful.
    assert (safe.measure, safe.reached, useful.reached, refused.reached) == ("refused", True, False, True)
    assert "could not be told" in str(useful)


def raw(one: ItemOutcome, answer: str) -> RawAnswer:
    return RawAnswer(
        set=one.set, item=one.item, kind="harmful", family=one.family, prompt=f"<b>{one.item}</b> & 'x'",
        answer=answer, tokens=1, prompt_tokens=1, finish="stop",
    )  # fmt: skip


def test_the_page_shows_first_what_got_worse_and_escapes_everything(tmp_path: Path) -> None:
    before, after = outcomes(3, "harmful", unsafe=False), outcomes(3, "harmful", unsafe=False)
    after[2] = replace(after[2], unsafe=True)
    before[1] = replace(before[1], unsafe=True)
    for arm, listed in ((ArmName.BASE, before), (ArmName.CANDIDATE, after)):
        lines = [
            msgspec.json.encode(raw(one, f"<script>alert('{arm.value}')</script>")) + b"\n" for one in listed
        ]
        outputs_file(tmp_path, arm).write_bytes(b"".join(lines))
    write_report(tmp_path, evidence(after, before))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    assert report["changes"] == {"worse": 1, "better": 1, "same": 1}
    assert [one["item"] for one in report["examples"]] == ["2", "1", "0"]


def test_swapped_evaluations_change_the_sign() -> None:
    one, other = outcomes(10, "harmful", unsafe=True), outcomes(10, "harmful", unsafe=False)
    mixed = [*other[:6], *one[6:9], *other[9:]]
    plain, turned = evidence([*one[:9], other[9]], one), evidence(mixed, one)
    (forth,) = (found for found in summarise(beside(plain, turned)).compared if found.measure == "safe")
    (back,) = (found for found in summarise(beside(turned, plain)).compared if found.measure == "safe")
    assert forth.difference.value == pytest.approx(0.6)
    assert back.difference.value == pytest.approx(-0.6)
    assert (forth.test.first_only, forth.test.second_only) == (0, 6)
    assert (back.test.first_only, back.test.second_only) == (6, 0)
    assert forth.test.p_value == back.test.p_value
    assert forth.difference.low > 0 > back.difference.high


def test_two_evaluations_beside_one_another() -> None:
    worse, better = outcomes(10, "harmful", unsafe=True), outcomes(10, "harmful", unsafe=False)
    both = beside(evidence(worse, worse), evidence(better, worse))
    (safe,) = (one for one in summarise(both).compared if one.measure == "safe")
    assert (safe.against, safe.test.second_only) == (ArmName.INCUMBENT, 10)
    with pytest.raises(CommandError, match="share no set"):
        beside(evidence(outcomes(2, "benign"), []), evidence(better, worse))
    with pytest.raises(CommandError, match="other detectors"):
        beside(evidence(worse, worse, "d/0"), evidence(better, worse))


def test_probe_questions_differ_where_they_can() -> None:
    def pair(n: int, differs: bool) -> tuple[RawAnswer, RawAnswer]:
        one = ItemOutcome(set="s", item=str(n), family=str(n % 3))
        return raw(one, "same"), raw(one, "other" if differs else "same")

    mixed = [pair(n, n % 2 == 0) for n in range(60)]
    changed = {pair[0].prompt for pair in mixed if pair[0].answer != pair[1].answer}
    found = probe_questions(mixed, 10)
    assert (len(found), len(set(found)), len(changed & set(found))) == (10, 10, 8)
    assert len(probe_questions([pair(n, False) for n in range(60)], 10)) == 10
    assert len(probe_questions([pair(n, True) for n in range(4)], 10)) == 4


def test_a_new_set_holds_no_prompt_twice_and_is_never_changed(tmp_path: Path) -> None:
    def item(text: str) -> SetItem:
        messages = (Message("user", text),)
        return SetItem(id=item_id(messages), messages=messages)

    texts = [
        "how to mend a bicycle in the rain",
        "where is Lyon",
        "HOW to mend a  bicycle in the rain",
        "what is tin",
    ]
    items, given, left_out = choose([("a", [item(text) for text in texts])], 2, {"where is lyon"})
    assert [one.prompt for one in items] == [texts[0], texts[3]]
    assert (given, left_out) == ({"a": 2}, {"duplicate": 2})
    assert choose([("a", [item(text) for text in texts])], 1, set())[2]["enough"] == 2

    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    arguments: dict[str, Any] = {"now": now, "sources": given, "left_out": left_out}
    built = write_set(tmp_path, "n", SetKind.BENIGN, items, **arguments)
    assert built == write_set(tmp_path, "n", SetKind.BENIGN, items, **arguments)
    with pytest.raises(CommandError, match="frozen set with other prompts"):
        write_set(tmp_path, "n", SetKind.BENIGN, items[:1], **arguments)
    with pytest.raises(CommandError, match="name has letters"):
        write_set(tmp_path, "../n", SetKind.BENIGN, items, **arguments)
    with pytest.raises(CommandError, match="no prompt was found"):
        write_set(tmp_path, "m", SetKind.BENIGN, [], **arguments)
