"""The data set of one run: from the store's pairs to two files, a manifest and two tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final

from sentinel.clock import Clock, SystemClock
from sentinel.errors import CommandError
from sentinel.manifests import DatasetManifest
from sentinel.settings import Settings
from sentinel.verdicts import Policy
from trainer.asking import Ask
from trainer.dataset.benign import candidates, ordered
from trainer.dataset.benign_rows import BenignRows, Judge
from trainer.dataset.harmful import as_row, on_policy, usable
from trainer.dataset.kept_answers import KeptAnswers
from trainer.dataset.likeness import Evaluated
from trainer.dataset.rows import Row, asked
from trainer.dataset.writing import finish, store, write
from trainer.pairs import Collected, Connection, collect
from trainer.reporting import Report, Stage

_LEAST_BENIGN: Final = 0.5
"""Share of the wanted benign rows below which there is no benign side worth the name."""


async def build_dataset(
    conn: Connection,
    *,
    served_model: str,
    settings: Settings,
    folder: Path,
    evaluation_prompts: Iterable[str],
    ask: Ask,
    seed: int,
    report: Report,
    judge: Judge | None = None,
    clock: Clock | None = None,
) -> DatasetManifest:
    """Make the data set of ``served_model`` in ``folder`` and record it; the same input and seed, the same bytes.

    1. collect the pairs that still hold, 2. drop what teaches nothing and what evaluation asks, and cap, 3. let
    the base replace what an adapter said, 4. make benign rows, for which ``ask`` is put the configured strict
    instruction, 5. redact, split, probe and write, 6. record. No transaction is open while a model is asked.

    What the base has answered is kept in ``folder`` until the end: a killed attempt is gone on with.
    Without ``judge`` new answers cannot be scored: they, and pairs of an adapter, are dropped and counted.

    Raises:
        CommandError: too few harmful pairs, or too few benign rows; it says what to do.
        UnavailableError: the model or the guard is away.
    """
    wanted = settings.dataset
    dropped: Counter[str] = Counter()
    kept = KeptAnswers(folder, ask, about=_asked_how(settings, served_model))
    collected = await collected_for(conn, served_model, settings)
    dropped.update(why.value for why in collected.dropped.values())
    evaluated = Evaluated(evaluation_prompts, wanted.near_duplicate)
    pairs, out = usable(collected.valid, settings=wanted, evaluated=evaluated, seed=seed)
    dropped.update(why.value for why in out.values())
    pairs, replaced = await on_policy(pairs, settings=wanted, ask=kept.ask, judge=judge, dropped=dropped)
    if len(pairs) < wanted.min_pairs:
        raise CommandError(
            f"{served_model} has {len(pairs)} usable harmful pairs of {_read(collected)} and"
            f" dataset.min_pairs is {wanted.min_pairs}; dropped: {_listed(dropped)}"
        )
    total = round(len(pairs) * (1 + wanted.mix.twins + wanted.mix.utility))
    progress = _Progress(report, total, len(pairs))
    rows = [as_row(pair) for pair in pairs]
    rows += await _benign(
        conn, served_model, settings, rows, evaluated, kept.ask, judge, seed, dropped, progress
    )
    finished = finish(rows, wanted, seed)
    manifest = write(
        finished,
        folder,
        served_model=served_model,
        dropped=dropped,
        seed=seed,
        clock=clock or SystemClock(),
        score_run=max((pair.score_run for pair in pairs), default=0),
        mix=_mix(settings),
        collected=_read(collected),
        fresh=sum(pair.fresh for pair in pairs),
        guard_ids=tuple(sorted({pair.guard_id for pair in pairs})),
        source="store",
        first_pair_at=min(pair.created_at for pair in pairs),
        last_pair_at=max(pair.created_at for pair in pairs),
        replaced_rejected=replaced,
        evaluation_prompts=len(evaluated),
    )
    await store(conn, manifest, [pair.pair_id for pair in pairs])
    kept.forget()
    progress.end(manifest)
    return manifest


def _asked_how(settings: Settings, served_model: str) -> str:
    """What decides the base's answers, as far as settings say it."""
    model = settings.served_models.get(served_model)
    asking = settings.evaluation
    return repr((served_model, model and model.base, asking.server_url, asking.max_tokens, asking.seed))


async def collected_for(conn: Connection, served_model: str, settings: Settings) -> Collected:
    """The pairs of a served model, read as the settings say. Raises what asyncpg raises."""
    return await collect(
        conn,
        served_model,
        model=settings.served_models.get(served_model),
        policy=Policy(
            version=settings.policy.version,
            strict=settings.policy.strict,
            ignored_categories=frozenset(settings.policy.ignored_categories),
        ),
        score_run=settings.dataset.score_run,
        reserved_share=settings.evaluation.reserved_share,
    )


async def _benign(
    conn: Connection,
    served_model: str,
    settings: Settings,
    harmful: list[Row],
    evaluated: Evaluated,
    ask: Ask,
    judge: Judge | None,
    seed: int,
    dropped: Counter[str],
    progress: _Progress,
) -> list[Row]:
    mix = settings.dataset.mix
    prompts = [asked(row.prompt) for row in harmful]
    found = await candidates(conn, served_model, settings, dropped)
    borderline, others = (iter(part) for part in ordered(found, prompts, seed))
    making = BenignRows(
        settings.dataset,
        evaluated=evaluated,
        harmful=prompts,
        ask=ask,
        judge=judge,
        dropped=dropped,
        done=progress.add,
    )
    twins, utility = round(mix.twins * len(harmful)), round(mix.utility * len(harmful))
    rows = await making.twins(chain(borderline, others), twins)
    rows += await making.utility(chain(others, borderline), utility)
    if len(rows) < max(1, _LEAST_BENIGN * (twins + utility)):
        raise CommandError(
            f"there is no benign side: {len(rows)} benign rows of {twins + utility} wanted came of"
            f" {len(found)} prompts of {mix.benign.source} (dropped: {_listed(dropped)}). Pairs that only refuse"
            " teach refusing. Let more harmless traffic be scored, set dataset.mix.benign.source to file or hub,"
            " or word dataset.mix.strict_instruction so that the base refuses under it"
        )
    return rows


class _Progress:
    """Rows done of rows wanted; never falls, and ends at all."""

    def __init__(self, report: Report, total: int, done: int) -> None:
        self._report, self._total, self._done = report, total, done
        self.add(0)

    def add(self, rows: int) -> None:
        self._done = min(self._done + rows, self._total)
        self._report(Stage("dataset", self._done, self._total))

    def end(self, manifest: DatasetManifest) -> None:
        self._report(Stage("dataset", self._total, self._total, f"{manifest.rows} rows"))


def _read(collected: Collected) -> int:
    return len(collected.valid) + len(collected.dropped)


def _mix(settings: Settings) -> dict[str, str | float]:
    mix = settings.dataset.mix
    return {
        "twins": mix.twins,
        "utility": mix.utility,
        "source": mix.benign.source,
        "name": mix.benign.path.name if mix.benign.path else mix.benign.name or "",
        "strict_instruction": mix.strict_instruction,
    }


def _listed(dropped: Counter[str]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in sorted(dropped.items()) if number) or "none"
