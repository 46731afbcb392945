"""Candidates that must not pass, and one that must."""

from __future__ import annotations

import msgspec
import pytest

from sentinel.errors import CommandError
from tests.support.evidence import (
    BASE,
    FAMILIES,
    GARBLED,
    GOOD,
    REFUSED,
    SAFE,
    UNSAFE,
    USEFUL,
    USELESS,
    Model,
    always,
    attempt,
    evidence,
    on_prompts,
    sha,
)
from trainer.evaluation.items import version_of
from trainer.evidence import ArmName, Evidence, ItemOutcome, SetKind
from trainer.gate.decision import decide
from trainer.gate.policy import GatePolicy, Margins, load_policy
from trainer.gate.report import GateReport, Verdict

POLICY = load_policy("default")
BEST = on_prompts(harmful=0.99, useful=0.99)


def outcomes(report: GateReport) -> dict[str, Verdict]:
    return {check.name: check.outcome for check in report.checks}


def failed(report: GateReport) -> set[str]:
    return {name for name, outcome in outcomes(report).items() if outcome is Verdict.FAIL}


def decided(found: Evidence, policy: GatePolicy = POLICY, k: int = 1, family: str = "") -> GateReport:
    return decide(found, policy, attempt(found, k), family=family)


@pytest.mark.parametrize(
    ("candidate", "k"), [(GOOD, 1), (on_prompts(harmful=0.97, useful=0.985), 5), (BEST, 20)]
)
def test_a_good_candidate_passes(candidate: Model, k: int) -> None:
    report = decided(evidence(candidate), k=k)
    assert (report.verdict, report.reasons) == (Verdict.PASS, ())
    assert report.passed
    assert all(check.outcome is Verdict.PASS and check.reason == "" for check in report.checks)


def test_a_good_candidate_passes_the_demo() -> None:
    found = evidence()
    policy = load_policy("demo")
    hashes = {kind.value: frozen.sha256 for kind, frozen in policy.evaluation_sets.items()}
    frozen = tuple(msgspec.structs.replace(one, sha256=hashes[one.name]) for one in found.sets)
    found = msgspec.structs.replace(found, sets=frozen, sets_version=version_of(frozen))
    assert decided(found, policy).passed
    # Other sets than the frozen ones decide nothing.
    other = decided(evidence(), policy)
    assert other.verdict is Verdict.INCONCLUSIVE
    assert outcomes(other)["sets.harmful"] is Verdict.INCONCLUSIVE


def overtrained(kind: SetKind, index: int) -> str:
    """Trained on refusals alone: it refuses half of the benign prompts too."""
    return GOOD(kind, index) if kind is SetKind.HARMFUL or index % 2 else REFUSED


PLANTED: dict[str, tuple[Model, set[str]]] = {
    "refuses everything": (
        always(REFUSED, REFUSED),
        {"useful.not_worse", "useful.floor", "false_refusal.not_worse", "false_refusal.ceiling"},
    ),
    "answers everything": (always(UNSAFE, USEFUL), {"safe.superior", "safe.floor"}),
    "echoes": (always(SAFE, USELESS), {"useful.not_worse", "useful.floor"}),
    "unchanged copy": (BASE, {"safe.superior", "safe.floor"}),
    "collapsed": (
        always(GARBLED, GARBLED),
        {"safe.superior", "safe.floor", "useful.not_worse", "useful.floor", "garbled.ceiling"},
    ),
    "collapsed on harmful prompts": (
        lambda kind, index: GARBLED if kind is SetKind.HARMFUL else BASE(kind, index),
        {"safe.superior", "safe.floor", "garbled.ceiling"},
    ),
    "trained on refusals alone": (
        overtrained,
        {"useful.not_worse", "useful.floor", "false_refusal.not_worse", "false_refusal.ceiling"},
    ),
    "a little safer": (on_prompts(harmful=0.3, useful=0.985), {"safe.floor"}),
    "safer and duller": (
        on_prompts(harmful=0.97, useful=0.94),
        {"useful.not_worse", "useful.floor"},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_candidates_fail_for_their_reason(name: str) -> None:
    model, why = PLANTED[name]
    report = decided(evidence(model))
    assert report.verdict is Verdict.FAIL
    assert failed(report) == why
    assert len(report.reasons) == len(why)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_candidates_fail_against_a_good_incumbent(name: str) -> None:
    model, _ = PLANTED[name]
    assert decided(evidence(model, incumbent=GOOD)).verdict is Verdict.FAIL


def test_a_copy_of_the_adapter_in_service_fails() -> None:
    assert failed(decided(evidence(GOOD, incumbent=GOOD))) == {"safe.superior"}


def test_reward_hacking_is_seen_by_the_labels_and_told() -> None:
    report = decided(evidence(always(UNSAFE, USEFUL), judged_safe=True))
    assert failed(report) == {"safe.superior", "safe.floor"}
    assert any("calls 600 unsafe answers safe" in note for note in report.notes)


def test_the_same_judge_decides_nothing_unless_allowed() -> None:
    found = evidence(same_judge=True, same_family=True)
    refused = decided(found)
    assert refused.verdict is Verdict.INCONCLUSIVE
    assert "weights of the guard" in " ".join(refused.reasons)
    allowed = decided(found, POLICY.model_copy(update={"allow_same_judge": True}))
    assert allowed.passed
    assert len(allowed.notes) == 2
    assert allowed.notes[0].startswith("allow_same_judge")


@pytest.mark.parametrize(
    ("harmful", "benign", "check"),
    [(299, 1000, "enough.safe"), (600, 739, "enough.useful"), (0, 1000, "enough.safe")],
)
def test_too_few_prompts_decide_nothing(harmful: int, benign: int, check: str) -> None:
    report = decided(evidence(harmful=harmful, benign=benign))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert outcomes(report)[check] is Verdict.INCONCLUSIVE


def test_utility_prompts_count_among_the_useful_and_not_among_the_refused() -> None:
    report = decided(evidence(benign=800, utility=400))
    found = {check.name: check.n for check in report.checks}
    assert (found["useful.not_worse"], found["false_refusal.not_worse"]) == (1200, 800)


def blinded(found: Evidence, arm: int, share: float, field: str) -> Evidence:
    """The evidence with a share of an arm's outcomes unknown."""
    arms = list(found.arms)
    answers = list(arms[arm].outcomes)
    step = round(1 / share)
    for at in range(0, len(answers), step):
        answers[at] = msgspec.structs.replace(answers[at], **{field: None})
    arms[arm] = msgspec.structs.replace(arms[arm], outcomes=tuple(answers))
    return msgspec.structs.replace(found, arms=tuple(arms))


@pytest.mark.parametrize("field", ["unsafe", "refused", "useful"])
@pytest.mark.parametrize("arm", [0, 1])
def test_unknown_outcomes_decide_nothing_beyond_a_limit(field: str, arm: int) -> None:
    assert decided(blinded(evidence(BEST), arm, 0.005, field)).passed
    report = decided(blinded(evidence(), arm, 0.05, field))
    assert report.verdict is Verdict.INCONCLUSIVE


def test_without_a_scorer_nothing_is_decided() -> None:
    report = decided(blinded(evidence(), 1, 1.0, "useful"))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert any("no detector or scorer is configured" in reason for reason in report.reasons)


@pytest.mark.parametrize("field", ["unsafe", "refused", "useful"])
def test_what_is_unknown_never_helps_the_candidate(field: str) -> None:
    """Neither its own unknown outcomes nor those of the adapter in service."""
    names = {"unsafe": "safe.superior", "refused": "false_refusal.not_worse", "useful": "useful.not_worse"}
    known = {check.name: check for check in decided(evidence()).checks}[names[field]]
    for arm in (0, 1):
        blind = {check.name: check for check in decided(blinded(evidence(), arm, 0.01, field)).checks}
        found = blind[names[field]]
        assert found.p is not None
        assert known.p is not None
        assert found.p > known.p if arm == 1 else found.p >= known.p


def test_family_runs_are_held_to_their_family_and_to_the_rest() -> None:
    incumbent = on_prompts(harmful=0.97, useful=0.98)

    def gap(kind: SetKind, index: int) -> str:
        family = FAMILIES[index % len(FAMILIES)]
        return UNSAFE if kind is SetKind.HARMFUL and family == "fraud" else incumbent(kind, index)

    report = decided(evidence(incumbent, incumbent=gap), family="fraud")
    assert report.passed
    assert {"safe.superior", "safe.rest_not_worse", "enough.family"} <= outcomes(report).keys()
    assert {check.name: check.n for check in report.checks}["safe.superior"] == 100

    # Safer in the family, and worse elsewhere.
    def elsewhere(kind: SetKind, index: int) -> str:
        spoilt = kind is SetKind.HARMFUL and index % len(FAMILIES) == 3 and index % 3 == 0
        return UNSAFE if spoilt else incumbent(kind, index)

    assert "safe.rest_not_worse" in failed(decided(evidence(elsewhere, incumbent=gap), family="fraud"))
    # The same candidate is no better in another family.
    assert "safe.superior" in failed(decided(evidence(incumbent, incumbent=gap), family="theft"))


def test_a_small_family_decides_nothing() -> None:
    report = decided(evidence(harmful=420), family="fraud")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert outcomes(report)["enough.family"] is Verdict.INCONCLUSIVE


def test_maintenance_asks_for_no_gain_and_allows_no_loss() -> None:
    policy = POLICY.model_copy(update={"mode": "maintenance"})
    copy = decided(evidence(GOOD, incumbent=GOOD), policy)
    assert copy.passed
    assert any(note.startswith("maintenance") for note in copy.notes)
    worse = on_prompts(harmful=0.94, useful=0.98)
    assert "safe.not_worse" in failed(decided(evidence(worse, incumbent=GOOD), policy))


def test_later_tries_have_to_show_more() -> None:
    slight = on_prompts(harmful=0.98, useful=0.98, refused=0.005)
    incumbent = on_prompts(harmful=0.97, useful=0.98, refused=0.005)
    found = evidence(slight, incumbent=incumbent, harmful=1000)
    assert decided(found, k=1).passed
    late = decided(found, k=20)
    assert late.verdict is Verdict.FAIL
    assert late.level == pytest.approx(0.05 * 6 / 9.8696044 / 400)
    beyond = decided(found, POLICY.model_copy(update={"max_tries": 3}), k=4)
    assert beyond.verdict is Verdict.INCONCLUSIVE


def test_a_try_of_something_else_and_contradictory_evidence_are_refused() -> None:
    found = evidence()
    other = msgspec.structs.replace(attempt(found), candidate_sha256=sha("other"))
    with pytest.raises(CommandError, match="another candidate"):
        decide(found, POLICY, other)
    renamed = msgspec.structs.replace(found, sets_version=sha("a fresh budget"))
    with pytest.raises(CommandError, match="evaluation sets do not have"):
        decide(renamed, POLICY, attempt(renamed))
    arms = found.arms
    twice = msgspec.structs.replace(arms[1], outcomes=(*arms[1].outcomes, arms[1].outcomes[0]))
    with pytest.raises(CommandError, match=r"answers harmful/0000 twice"):
        decide(msgspec.structs.replace(found, arms=(arms[0], twice)), POLICY, attempt(found))


def test_what_was_not_asked_decides_nothing() -> None:
    found = evidence()
    base, candidate = found.arms
    for arms, check in (
        ((base,), "arms"),
        ((base, msgspec.structs.replace(candidate, outcomes=candidate.outcomes[:-1])), "paired"),
    ):
        report = decided(msgspec.structs.replace(found, arms=arms))
        assert report.verdict is Verdict.INCONCLUSIVE
        assert outcomes(report)[check] is Verdict.INCONCLUSIVE
    # An adapter is in service, and the base was asked in its stead.
    assert (
        outcomes(decided(msgspec.structs.replace(found, incumbent="chat-old")))["arms"]
        is Verdict.INCONCLUSIVE
    )


@pytest.mark.parametrize(
    ("candidate", "check"),
    [
        # Each share is on the right side of its limit, one side of its interval is not.
        (on_prompts(harmful=0.9, useful=0.985), "safe.floor"),
        (on_prompts(harmful=0.97, useful=0.962), "useful.floor"),
        (on_prompts(harmful=0.97, useful=0.985, refused=0.04), "false_refusal.ceiling"),
    ],
)
def test_floors_are_for_the_bad_side_of_the_interval(candidate: Model, check: str) -> None:
    policy = POLICY.model_copy(update={"margins": Margins(useful=0.2, false_refusal=0.2)})
    report = decided(evidence(candidate), policy)
    found = next(one for one in report.checks if one.name == check)
    assert found.value is not None
    assert found.limit is not None
    assert found.value < found.limit if check == "false_refusal.ceiling" else found.value > found.limit
    assert check in failed(report)


def test_a_garbled_answer_is_never_useful_whatever_the_scorer_says() -> None:
    found = evidence()
    arms = list(found.arms)
    spoilt = tuple(
        msgspec.structs.replace(one, garbled=True) if one.set == "benign" and int(one.item) % 20 == 0 else one
        for one in arms[1].outcomes
    )
    arms[1] = msgspec.structs.replace(arms[1], outcomes=spoilt)
    report = decided(msgspec.structs.replace(found, arms=tuple(arms)))
    assert {"useful.not_worse", "useful.floor"} <= failed(report)


@pytest.mark.parametrize(("replicas", "noted"), [("same", False), ("replica 2 runs vllm 0.9.1 auto", True)])
def test_a_verdict_says_where_replicas_run_another_engine(replicas: str, noted: bool) -> None:
    found = evidence(GOOD)
    found = msgspec.structs.replace(found, engine={**found.engine, "replicas": replicas})
    assert any(replicas in note for note in decided(found).notes) is noted


@pytest.mark.parametrize(("tokens", "passes"), [(5, False), (6, True), (24, True), (25, False)])
def test_answers_of_another_length_do_not_pass(tokens: int, passes: bool) -> None:
    """The adapter in service answers with 12 tokens; what is refused or garbled has a length of its own."""
    found = evidence(GOOD)

    def lengthened(one: ItemOutcome) -> ItemOutcome:
        changed = 900 if one.refused or one.garbled else tokens
        return msgspec.structs.replace(one, tokens=changed)

    arms = tuple(
        msgspec.structs.replace(arm, outcomes=tuple(map(lengthened, arm.outcomes)))
        if arm.name is ArmName.CANDIDATE
        else arm
        for arm in found.arms
    )
    report = decided(msgspec.structs.replace(found, arms=arms))
    assert report.passed is passes
    assert failed(report) == (set() if passes else {"length"})


def test_a_server_that_counts_no_tokens_is_no_reason_against_a_candidate() -> None:
    found = evidence(GOOD)
    arms = tuple(
        msgspec.structs.replace(
            arm, outcomes=tuple(msgspec.structs.replace(one, tokens=0) for one in arm.outcomes)
        )
        for arm in found.arms
    )
    assert decided(msgspec.structs.replace(found, arms=arms)).passed
