"""Evidence for the gate's tests: models described by what they do on each prompt."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from uuid import UUID

from sentinel.serving_desired import Probe
from sentinel.store.tries import Try
from trainer.evaluation.items import version_of
from trainer.evidence import Arm, ArmName, EvaluationSet, Evidence, ItemOutcome, SetKind

FAMILIES = ("fraud", "theft", "weapons", "privacy", "drugs", "violence")
SAFE, UNSAFE, REFUSED, USEFUL, USELESS, GARBLED = (
    "safe",
    "unsafe",
    "refused",
    "useful",
    "useless",
    "garbled",
)

Model = Callable[[SetKind, int], str]
"""What a model does on prompt ``index`` of a set of that kind."""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def on_prompts(*, harmful: float, useful: float, refused: float = 0.0, shift: int = 0) -> Model:
    """Refuses that share of harmful prompts; is useful on, and refuses, these shares of benign ones.

    Which prompts these are is fixed by hash and ``shift``: two models of one shift differ on as few as possible.
    """

    def act(kind: SetKind, index: int) -> str:
        at = int(sha(f"{kind.value}-{index}-{shift}")[:8], 16) / 2**32
        if kind is SetKind.HARMFUL:
            return REFUSED if at < harmful else UNSAFE
        if at >= 1 - refused:
            return REFUSED
        return USEFUL if at < useful else USELESS

    return act


def always(harmful: str, other: str) -> Model:
    return lambda kind, index: harmful if kind is SetKind.HARMFUL else other


def outcome(kind: SetKind, index: int, act: str, *, judged_safe: bool = False) -> ItemOutcome:
    harmful = kind is SetKind.HARMFUL
    unsafe = act == UNSAFE
    return ItemOutcome(
        set=kind.value,
        item=f"{index:04}",
        family=FAMILIES[index % len(FAMILIES)] if harmful else "things",
        unsafe=unsafe,
        refused=act == REFUSED,
        garbled=act == GARBLED,
        useful=None if harmful else act == USEFUL,
        judge_unsafe=False if judged_safe else unsafe,
        tokens=12,
    )


def arm(name: ArmName, model: Model, sizes: dict[SetKind, int], *, judged_safe: bool = False) -> Arm:
    return Arm(
        name=name,
        adapter=None if name is ArmName.BASE else f"chat-{name.value}",
        outcomes=tuple(
            outcome(kind, index, model(kind, index), judged_safe=judged_safe)
            for kind, n in sizes.items()
            for index in range(n)
        ),
        outputs_sha256=sha(f"outputs of {name.value}"),
    )


BASE = on_prompts(harmful=0.02, useful=0.985)
GOOD = on_prompts(harmful=0.97, useful=0.98, refused=0.005)


def evidence(
    candidate: Model = GOOD,
    *,
    base: Model = BASE,
    incumbent: Model | None = None,
    harmful: int = 600,
    benign: int = 1000,
    utility: int = 0,
    same_judge: bool = False,
    same_family: bool = False,
    judged_safe: bool = False,
) -> Evidence:
    """All arms over the same prompts."""
    sizes = {SetKind.HARMFUL: harmful, SetKind.BENIGN: benign, SetKind.UTILITY: utility}
    sizes = {kind: n for kind, n in sizes.items() if n}
    arms = [arm(ArmName.BASE, base, sizes)]
    if incumbent is not None:
        arms.append(arm(ArmName.INCUMBENT, incumbent, sizes))
    arms.append(arm(ArmName.CANDIDATE, candidate, sizes, judged_safe=judged_safe))
    sets = tuple(
        EvaluationSet(name=kind.value, kind=kind, items=n, sha256=sha(kind.value))
        for kind, n in sizes.items()
    )
    return Evidence(
        served_model="chat",
        run_id=UUID(int=7),
        created_at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        candidate="chat-candidate",
        incumbent=None if incumbent is None else "chat-incumbent",
        candidate_sha256=sha("candidate"),
        base_sha256=sha("base"),
        dataset_sha256=sha("dataset"),
        sets=sets,
        sets_version=version_of(sets),
        arms=tuple(arms),
        engine={"server": "embedded", "dtype": "float32"},
        sampling={"temperature": "0"},
        seed=3,
        detectors={"unsafe": "labels 1", "useful": "grammar 1"},
        data_guard_id="a" * 16,
        judge_guard_id="b" * 16,
        same_judge=same_judge,
        same_family=same_family,
        probes=(Probe("what is up", ("not", " much"), True),),
    )


def attempt(found: Evidence, k: int = 1) -> Try:
    return Try(
        served_model=found.served_model,
        version=found.sets_version,
        candidate_sha256=found.candidate_sha256,
        k=k,
    )
