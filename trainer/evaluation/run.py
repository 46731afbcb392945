"""Evaluation from end to end.

server      found and asked what it is; candidate and incumbent loaded where they are not
answers     every arm, every prompt, greedy and seeded; base and incumbent from an earlier run where nothing changed
probes      recorded first tokens of the candidate, then the adapters are unloaded
judge       the answers to harmful prompts (all answers where it also tells utility); a judge that is there already
            begins while others are still asked
outcomes    evidence.json; report.json and report.html for people
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sentinel.clock import Clock, SystemClock
from sentinel.digests import sha256_of
from sentinel.errors import ConfigurationError
from sentinel.serving_desired import Probe
from trainer.asking import Asker
from trainer.evaluation.answering import (
    AskedArm,
    ask_arms,
    forget,
    outputs_file,
    read_outputs,
)
from trainer.evaluation.cache import ArmKey, EvaluationCache, Kept
from trainer.evaluation.early import EarlyJudging
from trainer.evaluation.items import version_of
from trainer.evaluation.judging import Judging
from trainer.evaluation.page import write_report
from trainer.evaluation.perplexity import reference_perplexity
from trainer.evaluation.plan import EvaluationPlan
from trainer.evaluation.probing import probe_questions
from trainer.evaluation.server import engine_of, replicas_beside, serving
from trainer.evidence import Arm, ArmName, Evidence
from trainer.reporting import Report, Stage
from trainer.run_directory import replace_file
from trainer.scorers.grading import scheme_of
from trainer.scorers.judge import AnswerJudge, data_guard_id, independence, make_judge

if TYPE_CHECKING:
    from sentinel.settings import Settings

EVIDENCE: Final = "evidence.json"
STEP: Final = "evaluate"


async def evaluate(
    plan: EvaluationPlan, folder: Path, *, report: Report, clock: Clock | None = None
) -> Evidence:
    """Measure the arms of ``plan`` and write everything into ``folder``.

    An attempt that was broken off is gone on with when it is called again for the same folder.

    Raises:
        ConfigurationError: no sets, no server that may be asked, an unknown judge grammar.
        CommandError: the server refuses an adapter.
        UnavailableError, SlowDownError: server or judge are away.
    """
    if not plan.sets:
        raise ConfigurationError("evaluation.sets is empty: without held-out prompts nothing can be measured")
    run = _Evaluation(plan, folder, report, clock or SystemClock())
    try:
        return await run.everything()
    finally:
        await run.aclose()


def read_evidence(folder: Path) -> Evidence:
    """The evidence in an evaluation's folder. Raises ConfigurationError where there is none."""
    try:
        return msgspec.json.decode((folder / EVIDENCE).read_bytes(), type=Evidence)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{folder} holds no finished evaluation ({error})") from error


class _Evaluation:
    """One run of `evaluate`."""

    def __init__(self, plan: EvaluationPlan, folder: Path, report: Report, clock: Clock) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan = plan
        self.folder = folder
        self.clock = clock
        self._report = report
        self._scheme = scheme_of(plan.settings)
        self._judge: AnswerJudge | None = make_judge(plan.settings, clock)
        self._cache = EvaluationCache(plan.settings.runs_dir / "evaluation-cache")
        self._judging = Judging(plan.sets, self._scheme, self._judge, self._judged)
        self._done = self._total = 0
        self._detail = "asking"

    async def aclose(self) -> None:
        if self._judge is not None:
            await self._judge.aclose()

    async def everything(self) -> Evidence:
        plan, settings = self.plan, self.plan.settings
        kept: dict[ArmName, Kept] = {}
        perplexity: dict[ArmName, float | None] = {}
        in_service = plan.incumbent.name if plan.incumbent else None
        async with serving(settings, plan.served_model, url=plan.server_url, in_service=in_service) as server:
            engine = await engine_of(server.asker, settings.evaluation.dtype)
            keys = {
                arm: self._key(subject.sha256 if subject else None, engine) for arm, subject in plan.subjects
            }
            for arm in (ArmName.BASE, ArmName.INCUMBENT):
                # The candidate is always asked: what it answers now is what the gate decides on.
                if (
                    arm in keys
                    and plan.base_sha256
                    and (found := self._cache.restore(keys[arm], *self._files(arm)))
                ):
                    kept[arm] = found
            names = {arm: subject.name if subject else server.base for arm, subject in plan.subjects}
            asked = [AskedArm(arm, names[arm], self._attempt(keys[arm])) for arm in keys if arm not in kept]
            for arm, subject in plan.subjects:
                if subject is not None and arm not in kept:
                    await server.load(subject)
            self._total = len(asked) * (sum(len(one.items) for one in plan.sets) + self._judging.wanted())
            await self._ask(server.asker, asked)
            if settings.evaluation.perplexity:
                for one in asked:
                    perplexity[one.name] = await reference_perplexity(server.asker, one.model, plan.sets)
            self._say("recording probes")
            probes = await server.probes(plan.candidate.name, self._questions())
            replicas = await replicas_beside(settings, plan.served_model, engine)
        arms = await self._arms(kept, keys, perplexity)
        evidence = self._evidence({**engine, "replicas": replicas}, arms, probes)
        replace_file(self.folder / EVIDENCE, msgspec.json.encode(evidence))
        self._say("writing the report")
        # In a thread: exact intervals take a second, and the run's heartbeat goes on meanwhile.
        await asyncio.to_thread(write_report, self.folder, evidence)
        forget(self.folder)
        self._done = self._total
        self._say("done")
        return evidence

    async def _ask(self, asker: Asker, asked: list[AskedArm]) -> None:
        early = EarlyJudging(self._judging, enabled=self.plan.settings.evaluation.judge.early)
        try:
            await ask_arms(asker, asked, self.plan.sets, self.folder, done=self._answered, seen=early.seen)
            await early.finish()
        finally:
            await early.aclose()

    async def _arms(
        self,
        kept: dict[ArmName, Kept],
        keys: dict[ArmName, ArmKey],
        perplexity: dict[ArmName, float | None],
    ) -> tuple[Arm, ...]:
        self._detail = "judging"
        arms = []
        for arm, subject in self.plan.subjects:
            outputs, judged = self._files(arm)
            found = kept.get(arm)
            if found is None:
                outcomes = await self._judging.grade(outputs, judged)
                found = Kept(outcomes, perplexity.get(arm))
                # The candidate's too: once promoted it is the next run's incumbent. An unknown base is not kept.
                if self.plan.base_sha256:
                    self._cache.keep(keys[arm], outputs, judged, outcomes, found.perplexity)
            arms.append(
                Arm(
                    name=arm,
                    adapter=subject.name if subject else None,
                    outcomes=found.outcomes,
                    perplexity=found.perplexity,
                    outputs_sha256=sha256_of(outputs),
                )
            )
        return tuple(arms)

    def _evidence(self, engine: dict[str, str], arms: tuple[Arm, ...], probes: tuple[Probe, ...]) -> Evidence:
        plan, judge = self.plan, self._judge
        stands = independence(plan.settings)
        return Evidence(
            served_model=plan.served_model,
            run_id=plan.run_id,
            created_at=self.clock.now(),
            candidate=plan.candidate.name,
            incumbent=plan.incumbent.name if plan.incumbent else None,
            candidate_sha256=plan.candidate.sha256,
            base_sha256=plan.base_sha256,
            dataset_sha256=plan.dataset_sha256,
            sets=tuple(one.identity for one in plan.sets),
            sets_version=version_of(plan.sets),
            arms=arms,
            engine=engine,
            sampling=sampling_of(plan.settings),
            seed=plan.settings.evaluation.seed,
            detectors=self._scheme.detectors(judge.detector if judge else None),
            data_guard_id=data_guard_id(plan.settings),
            judge_guard_id=judge.guard_id if judge else "",
            same_judge=judge is not None and stands.same_judge,
            same_family=judge is not None and stands.same_family,
            probes=probes,
        )

    def _key(self, adapter_sha256: str | None, engine: dict[str, str]) -> ArmKey:
        plan, judge = self.plan, self._judge
        return ArmKey(
            base_sha256=plan.base_sha256,
            adapter_sha256=adapter_sha256,
            sets=tuple((one.name, one.kind.value, one.sha256) for one in plan.sets),
            engine=engine,
            sampling=sampling_of(plan.settings),
            seed=plan.settings.evaluation.seed,
            detectors=self._scheme.detectors(judge.detector if judge else None),
            judge_guard_id=judge.guard_id if judge else "",
            scheme=f"{self._scheme.primary}/{self._scheme.useful}",
            strict=plan.settings.policy.strict,
        )

    def _attempt(self, key: ArmKey) -> str:
        """What a broken-off attempt is recognised by: the same run, and nothing else has changed."""
        return hashlib.sha256(f"{self.plan.run_id}\x1f{key.digest}".encode()).hexdigest()

    def _questions(self) -> list[str]:
        """Questions for the probes, those first to which base and candidate gave different answers."""
        base, candidate = (outputs_file(self.folder, arm) for arm in (ArmName.BASE, ArmName.CANDIDATE))
        single = {
            (one.name, item.id) for one in self.plan.sets for item in one.items if len(item.messages) == 1
        }
        pairs = zip(read_outputs(base), read_outputs(candidate), strict=True)
        return probe_questions(
            (pair for pair in pairs if (pair[0].set, pair[0].item) in single),
            self.plan.settings.evaluation.probe_questions,
        )

    def _files(self, arm: ArmName) -> tuple[Path, Path]:
        return outputs_file(self.folder, arm), self.folder / f"judged-{arm.value}.jsonl"

    # -- progress

    def _answered(self, count: int) -> None:
        self._done += count
        self._say(self._detail)

    def _judged(self, count: int) -> None:
        self._done += count
        self._say(self._detail)

    def _say(self, detail: str) -> None:
        self._report(Stage(STEP, min(self._done, self._total), self._total, detail))


def sampling_of(settings: Settings) -> dict[str, str]:
    """How answers are asked for."""
    return {"temperature": "0", "max_tokens": str(settings.evaluation.max_tokens)}
