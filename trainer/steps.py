"""The steps of a training run. Each is safe to repeat: what has its mark in the folder of the run is not done again.

`trainer.pipeline` says in which order; here stands what each takes, leaves and writes down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sentinel.clock import Clock
from sentinel.errors import CommandError
from sentinel.manifests import AdapterManifest, DatasetManifest
from sentinel.settings import Settings
from sentinel.store import training
from sentinel.store.adapters import adapter_of
from sentinel.store.promotions import promoted
from sentinel.store.training import TrainingRun
from sentinel.store.tries import next_try
from trainer import adapter_store
from trainer.dataset.building import build_dataset
from trainer.dataset.judging import data_judge
from trainer.evaluation.items import LoadedSet, version_of
from trainer.evaluation.plan import EvaluationPlan, Subject
from trainer.evaluation.run import evaluate, read_evidence
from trainer.evaluation.server import make_asker
from trainer.evidence import Evidence
from trainer.finetune.naming import adapter_name
from trainer.finetune.recipe import Recipe
from trainer.gate.bundle import write_bundle
from trainer.gate.decision import decide
from trainer.gate.policy import load_policy
from trainer.gate.report import GateReport, Verdict
from trainer.gate.signing import signing_key
from trainer.gate.storing import store_report
from trainer.handover import hand_over, register
from trainer.preflight import Prepared, preflight
from trainer.preregistration import Hypothesis, write_once
from trainer.reporting import Report, Stage
from trainer.run_directory import RunDirectory

if TYPE_CHECKING:
    import asyncpg

    from sentinel.store.connections import Connect


class Candidate(Struct, frozen=True, kw_only=True):
    """The adapter that a run made."""

    name: str
    path: Path
    sha256: str
    base_sha256: str
    dataset_sha256: str

    @property
    def subject(self) -> Subject:
        """As evaluation takes it."""
        return Subject(name=self.name, path=self.path, sha256=self.sha256)


class Steps:
    """The steps of one attempt of one run, in its locked folder."""

    def __init__(
        self,
        settings: Settings,
        run: TrainingRun,
        attempt: int,
        directory: RunDirectory,
        connect: Connect,
        clock: Clock,
        report: Report,
        imported: asyncio.Future[None],
    ) -> None:
        """``imported`` is done when the training libraries are."""
        self._settings = settings
        self._imported = imported
        self._run = run
        self._attempt = attempt
        self._directory = directory
        self._connect = connect
        self._clock = clock
        self._report = report
        self._policy = load_policy(settings.gate.policy)

    def prepare(self) -> Prepared:
        """What the run needs at its end, looked at before its beginning; raises as `trainer.preflight` does."""
        return preflight(self._settings, self._run)

    async def incumbent(self) -> Subject | None:
        """What is in service as the run begins to measure; None: the base."""
        async with self._connect() as conn:
            current = (await promoted(conn)).get(self._run.served_model)
            if current is None or current.adapter is None:
                return None
            row = await adapter_of(conn, current.adapter)
        if row is None:
            raise CommandError(f"the promoted adapter {current.adapter} is not in the table of adapters")
        return Subject(name=row.adapter, path=row.path, sha256=row.weights_sha256)

    async def write_hypothesis(self, sets: tuple[LoadedSet, ...], incumbent: Subject | None) -> None:
        """What will be tested is written down before anything is trained."""
        now = Hypothesis(
            safer_than=None if incumbent is None else incumbent.name,
            family=self._family,
            policy=self._policy.name,
            policy_sha256=self._policy.sha256,
            sets_version=version_of(sets),
        )
        if self._directory.finished("gate") is not None:
            return
        begun = self._directory.finished("dataset") is not None
        async with self._connect() as conn:
            if await write_once(conn, self._run, self._attempt, now, begun=begun):
                self._directory.event("hypothesis", **msgspec.to_builtins(now))

    @property
    def _family(self) -> str:
        return str(self._run.config.get("family") or "")

    @asynccontextmanager
    async def _owned(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A transaction in which the run is this attempt's until it ends: what a stale one writes is refused."""
        async with self._connect() as conn, conn.transaction():
            await training.heartbeat(conn, self._run.run_id, self._attempt)
            yield conn

    async def dataset(self, sets: tuple[LoadedSet, ...]) -> DatasetManifest:
        """The data set of all pairs that still hold, and a benign side; nothing of what ``sets`` ask is in it."""
        folder = self._directory.path / "dataset"
        done = self._directory.finished("dataset")
        if done is None:
            if self._settings.dataset.mix.benign.source == "hub":
                # What reads the Hub looks into each training library that is being imported already.
                await asyncio.shield(self._imported)
            async with (
                make_asker(self._settings, self._run.served_model) as asker,
                data_judge(self._settings, self._clock) as judge,
                self._connect() as conn,
            ):
                manifest = await build_dataset(
                    conn,
                    served_model=self._run.served_model,
                    settings=self._settings,
                    folder=folder,
                    evaluation_prompts=[prompt for loaded in sets for prompt in loaded.prompts],
                    ask=asker.ask_base,
                    seed=self._settings.training.seed,
                    report=self._report,
                    judge=judge,
                    clock=self._clock,
                )
            self._directory.finish("dataset", manifest.model_dump(mode="json"))
        else:
            manifest = DatasetManifest.model_validate(done)
        async with self._connect() as conn:
            await training.set_dataset(conn, self._run.run_id, self._attempt, manifest.dataset_id)
        return manifest

    async def finetune(self, manifest: DatasetManifest, recipe: Recipe) -> Candidate:
        """An adapter of the base, stored as a candidate. A run that was killed goes on from its checkpoint."""
        from trainer.finetune.run import finetune
        from trainer.scorers.grader import make_grader

        served = self._settings.served_models[self._run.served_model]
        # Two threads that import the same libraries at once: one of them meets modules that are half there.
        await asyncio.shield(self._imported)
        made = await asyncio.to_thread(
            finetune,
            self._directory.path / "dataset",
            served.base,
            recipe,
            self._directory.folder("finetune"),
            seed=self._settings.training.seed,
            grader=make_grader(self._settings),
            report=self._report,
        )
        candidate = Candidate(
            name=adapter_name(self._run.served_model, made.weights_sha256),
            # The row is read by processes with other working directories.
            path=made.adapter.absolute(),
            sha256=made.weights_sha256,
            base_sha256=made.base_sha256,
            dataset_sha256=manifest.content_sha256,
        )
        await self._register(candidate, manifest, made.rank, made.target_modules, served.base)
        if self._directory.finished("finetune") is None:
            self._directory.finish("finetune", msgspec.to_builtins(candidate, enc_hook=str))
        return candidate

    async def _register(
        self,
        candidate: Candidate,
        manifest: DatasetManifest,
        rank: int,
        target_modules: tuple[str, ...],
        base: str,
    ) -> None:
        adapter = AdapterManifest(
            created_at=self._clock.now(),
            code_version=manifest.code_version,
            adapter=candidate.name,
            served_model=self._run.served_model,
            base=base,
            base_sha256=candidate.base_sha256,
            weights_sha256=candidate.sha256,
            dataset_id=manifest.dataset_id,
            run_id=self._run.run_id,
            rank=rank,
            target_modules=target_modules,
        )
        async with self._owned() as conn:
            await register(conn, adapter, candidate.path)

    async def evaluate(
        self, candidate: Candidate, incumbent: Subject | None, sets: tuple[LoadedSet, ...]
    ) -> Evidence:
        """Base, incumbent and candidate asked the same prompts; the try is counted before the first question."""
        folder = self._directory.folder("evaluation")
        if self._directory.finished("evaluate") is not None:
            return read_evidence(folder)
        plan = EvaluationPlan(
            settings=self._settings,
            served_model=self._run.served_model,
            run_id=self._run.run_id,
            candidate=await self._placed(candidate),
            incumbent=incumbent,
            base_sha256=candidate.base_sha256,
            dataset_sha256=candidate.dataset_sha256,
            sets=sets,
        )
        async with self._connect() as conn:
            # Counted before the first question: what was asked and then thrown away was a try too.
            identities = [msgspec.to_builtins(one.identity) for one in sets]
            await next_try(conn, self._run.served_model, version_of(sets), candidate.sha256, sets=identities)
        evidence = await evaluate(plan, folder, report=self._report)
        self._directory.finish("evaluate", {"candidate": evidence.candidate, "incumbent": evidence.incumbent})
        return evidence

    async def _placed(self, candidate: Candidate) -> Subject:
        """The candidate where the evaluation server can read it: on another host only adapters.store is shared."""
        if self._settings.evaluation.remote_prefix is None:
            return candidate.subject
        store = self._settings.adapters.store.absolute()
        place = await asyncio.to_thread(
            adapter_store.keep, store, candidate.name, candidate.path, candidate.sha256
        )
        return Subject(name=candidate.name, path=place, sha256=candidate.sha256)

    async def gate(self, evidence: Evidence) -> Verdict:
        """Pass, fail or inconclusive, with a signed bundle, and the candidate's row moved accordingly."""
        if (done := self._directory.finished("gate")) is not None:
            return Verdict(done["verdict"])
        self._report(Stage("gate", 0, 1))
        verdict = (await self._decide(evidence)).verdict
        self._directory.finish("gate", {"verdict": verdict.value})
        self._report(Stage("gate", 1, 1, verdict.value))
        return verdict

    async def _decide(self, evidence: Evidence) -> GateReport:
        async with self._connect() as conn:
            attempt = await next_try(
                conn, self._run.served_model, evidence.sets_version, evidence.candidate_sha256
            )
        report = decide(evidence, self._policy, attempt, family=self._family)
        bundle = write_bundle(
            self._directory.folder("gate"),
            evidence,
            self._policy,
            report,
            attempt,
            outputs=sorted((self._directory.path / "evaluation").glob("outputs-*.jsonl")),
            key=signing_key(self._settings),
        )
        async with self._owned() as conn:
            await store_report(conn, evidence, report, bundle.sha256)
        return report

    async def promote(self, adapter: str) -> None:
        """Hand over to the promotion's job where the gate alone decides; else a person is awaited."""
        async with self._owned() as conn:
            done = await hand_over(conn, adapter, self._run.run_id, mode=self._settings.promotion.mode)
        self._directory.event("handed_over", adapter=adapter, to=done)
