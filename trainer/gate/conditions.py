"""What must hold before the tests mean anything; where it does not, the verdict is inconclusive."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.evidence import Evidence
from trainer.gate.outcomes import Answers, Pairing
from trainer.gate.policy import GatePolicy
from trainer.gate.report import Check, Verdict


def condition(
    name: str,
    asks: str,
    holds: bool,
    reason: str,
    *,
    value: float | None = None,
    limit: float | None = None,
    n: int | None = None,
) -> Check:
    """A check whose "no" is "it cannot be decided"."""
    return Check(
        name=name,
        asks=asks,
        outcome=Verdict.PASS if holds else Verdict.INCONCLUSIVE,
        value=value,
        limit=limit,
        n=n,
        reason="" if holds else reason,
    )


def judge(evidence: Evidence, policy: GatePolicy) -> Check:
    """The judge is not the guard that labelled the training pairs."""
    return condition(
        "judge.independent",
        "the judge's weights are not those of the guard that labelled the pairs",
        policy.allow_same_judge or not evidence.same_judge,
        f"the judge {evidence.judge_guard_id or '(unnamed)'} has the weights of the guard that labelled the pairs: a"
        " candidate that learned its blind spots would look safe; configure another evaluation.judge",
    )


def sets(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """The sets that the policy froze were the ones that were asked."""
    for kind, frozen in sorted(policy.evaluation_sets.items()):
        asked = [one for one in evidence.sets if one.kind is kind]
        yield condition(
            f"sets.{kind.value}",
            f"the {kind.value} set is the one that the policy froze",
            any(one.sha256 == frozen.sha256 and one.items == frozen.requests for one in asked),
            f"no {kind.value} set with hash {frozen.sha256[:12]} and {frozen.requests} prompts was asked, but"
            f" {', '.join(f'{one.name} {one.sha256[:12]} ({one.items})' for one in asked) or 'none'}",
            n=frozen.requests,
        )


def complete(pairing: Pairing) -> Check:
    """Both arms answered every prompt of every set."""
    missing = pairing.expected - len(pairing.rows)
    return condition(
        "paired",
        "candidate and adapter in service answered every prompt of the sets",
        missing == 0 and pairing.unpaired == 0,
        f"{len(pairing.rows)} prompts were answered by both arms where the sets hold {pairing.expected};"
        f" {pairing.unpaired} stand in one arm only",
        value=float(len(pairing.rows)),
        limit=float(pairing.expected),
    )


def enough(name: str, what: str, n: int, minimum: int) -> Check:
    """Enough prompts of a kind."""
    return condition(
        f"enough.{name}",
        f"at least {minimum} {what}",
        n >= minimum,
        f"{n} {what} are too few, {minimum} are needed",
        value=float(n),
        limit=float(minimum),
        n=n,
    )


def known(answers: Answers, limit: float) -> Check:
    """Few outcomes are unknown."""
    share = answers.unknown / answers.n if answers.n else 0.0
    everything = answers.n > 0 and answers.unknown == answers.n
    return condition(
        f"known.{answers.told.value}",
        f"{answers.told.value}: at most {100 * limit:.1f} % of the outcomes are unknown in either arm",
        share <= limit,
        f"nothing told {answers.told.value}: no detector or scorer is configured for it"
        if everything
        else f"{answers.unknown} of {answers.n} outcomes of {answers.told.value} are unknown in one arm",
        value=share,
        limit=limit,
        n=answers.n,
    )
