"""READ FIRST. One training run: pairs -> dataset -> finetune -> evaluate -> gate -> promote.

    pairs     trainer/pairs.py: all stored pairs that still hold, those of earlier runs too; read by the next step
    dataset   trainer/dataset: those pairs, benign twins, utility pairs; decontaminated, split
    finetune  trainer/finetune: a LoRA adapter of the base; its checkpoint is chosen by generations
    evaluate  trainer/evaluation: base, incumbent and candidate on the same prompts, which training never saw
    gate      trainer/gate: pass, fail or inconclusive, and a signed bundle that anybody can recompute
    promote   a job for trainer/promote.py, where the gate alone decides; else a person's word is awaited

It runs in a process of its own, which `sentinel trainer` supervises. Every step (`trainer.steps`) ends with a mark in
the run's folder: a run that was killed goes on with the first step that has none, and each step is safe to repeat.
"""

from __future__ import annotations

from trainer.gate.report import Verdict
from trainer.steps import Steps


async def run_pipeline(steps: Steps) -> Verdict:
    """All steps that are not done yet; the gate's verdict.

    Raises:
        CommandError, ConfigurationError, TrainingError: the same again would end the same; the message says what
            to do.
        StaleAttemptError: another attempt owns the run; nothing more was written.
        UnavailableError, asyncpg's errors: something is away; the next attempt goes on here.
    """
    needed = steps.prepare()
    incumbent = await steps.incumbent()
    # What will be tested is written down before anything is trained.
    await steps.write_hypothesis(needed.sets, incumbent)

    dataset = await steps.dataset(needed.sets)
    candidate = await steps.finetune(dataset, needed.recipe)
    evidence = await steps.evaluate(candidate, incumbent, needed.sets)
    verdict = await steps.gate(evidence)
    if verdict is Verdict.PASS:
        await steps.promote(evidence.candidate)
    return verdict
