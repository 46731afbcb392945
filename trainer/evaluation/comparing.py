"""Two finished evaluations beside one another: the candidates of both, on the prompts that both were asked."""

from __future__ import annotations

from msgspec.structs import replace

from sentinel.errors import CommandError
from trainer.evidence import Arm, ArmName, Evidence


def beside(first: Evidence, second: Evidence) -> Evidence:
    """The second's evidence with the first's candidate in the incumbent's place, on the sets that both share.

    Raises:
        CommandError: no set is the same in both, or different detectors told the outcomes.
    """
    theirs = {(one.name, one.kind, one.sha256) for one in first.sets}
    shared = tuple(one for one in second.sets if (one.name, one.kind, one.sha256) in theirs)
    if not shared:
        raise CommandError("the two evaluations share no set (by name and hash): nothing can be compared")
    if first.detectors != second.detectors:
        differ = sorted(
            name for name in second.detectors if first.detectors.get(name) != second.detectors[name]
        )
        raise CommandError(
            f"other detectors told the outcomes ({', '.join(differ)}): evaluate again with the same"
        )
    names = frozenset(one.name for one in shared)
    return replace(
        second,
        incumbent=first.candidate,
        sets=shared,
        arms=(
            _arm(first, ArmName.INCUMBENT, names),
            _arm(second, ArmName.CANDIDATE, names),
        ),
    )


def _arm(evidence: Evidence, name: ArmName, sets: frozenset[str]) -> Arm:
    arm = evidence.arm(ArmName.CANDIDATE)
    if arm is None:
        raise CommandError(f"the evaluation of {evidence.candidate} has no candidate's answers")
    return replace(arm, name=name, outcomes=tuple(one for one in arm.outcomes if one.set in sets))
