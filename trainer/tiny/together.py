"""Several of the models at a time, one thread each: torch lets go of the interpreter while it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from sentinel.clock import Clock
from sentinel.tiny.artefacts import Evaluation, Manifest, Model
from trainer.tiny.answering import Conversation
from trainer.tiny.building import Fresh, Recipe, evaluate, finish, loaded, prepare, save, train
from trainer.tiny.evaluation import Answer
from trainer.tiny.fitting import Progress

JOBS: Final = 2
"""One core for the chat model, which takes longest, and one for the guards in turn."""

T = TypeVar("T")


class Stage(StrEnum):
    """What is being done with a model."""

    TRAINING = "training"
    MEASURING = "measuring"


class Moment(Struct, frozen=True, gc=False):
    """Where one model stands: steps of training, then its answers to held-out requests."""

    model: Model
    stage: Stage
    done: int
    total: int | None
    """None for answers: on how many of the chat model's own a guard is measured, nobody knows before."""
    loss: float | None = None


class Built(Struct, frozen=True):
    """A finished model; seconds of wall clock, beside the other models."""

    model: Model
    folder: Path
    evaluation: Evaluation
    training_s: float
    measuring_s: float


Watch = Callable[[Moment], None]


class _StoppedError(Exception):
    """Another model failed, or the command was interrupted."""


def build(
    recipes: Sequence[Recipe],
    out: Path,
    *,
    chat: Path,
    clock: Clock,
    steps: int | None = None,
    samples: int = 150,
    threads: int = 1,
    jobs: int = JOBS,
    bf16: bool = False,
    watch: Watch | None = None,
) -> list[Built]:
    """Make the models, at most ``jobs`` at a time, each in its folder under ``out`` with figures and manifest.

    Guards are measured on the answers of the chat model among ``recipes``, else of the one in ``chat``. ``samples``
    is the number of held-out requests of each sort, ``steps`` stands in for the recipes' own. ``watch`` is called
    from several threads. What is computed does not depend on ``jobs``.
    """
    stop = threading.Event()

    def tell(moment: Moment) -> None:
        # Else an interrupted command would go on until the last step of the last model.
        if stop.is_set():
            raise _StoppedError
        if watch is not None:
            watch(moment)

    # Weights are drawn, written and loaded by this thread alone: all that changes state of the whole process.
    fresh = [prepare(recipe) for recipe in recipes]
    learn = partial(_train, steps=steps, threads=threads, bf16=bf16, clock=clock, tell=tell)
    trained = side_by_side([partial(learn, one) for one in fresh], jobs, stop)
    for one in fresh:
        save(one, out / one.recipe.model.value)
    made = [one.recipe.model for one in fresh]
    own = once(loaded(out / Model.CHAT.value if Model.CHAT in made else chat))
    look = partial(_measure, chat=own, samples=samples, threads=threads, clock=clock, tell=tell)
    measured = side_by_side(
        [partial(look, one.recipe, loaded(out / one.recipe.model.value)) for one in fresh], jobs, stop
    )
    built = []
    for model, (manifest, training_s), (evaluation, measuring_s) in zip(made, trained, measured, strict=True):
        finish(out / model.value, evaluation, manifest)
        built.append(Built(model, out / model.value, evaluation, training_s, measuring_s))
    return built


def once(answer: Answer) -> Answer:
    """Equal lists of questions are answered once: both guards judge the same answers. For several threads."""
    found: dict[str, list[str]] = {}
    lock = threading.Lock()

    def asked(conversations: Sequence[Conversation]) -> list[str]:
        key = repr(conversations)
        # Held meanwhile: the second to ask waits for the answers instead of making them too.
        with lock:
            if key not in found:
                found[key] = answer(conversations)
            return found[key]

    return asked


def _train(
    one: Fresh, *, steps: int | None, threads: int, bf16: bool, clock: Clock, tell: Watch
) -> tuple[Manifest, float]:
    begun = clock.monotonic()

    def report(progress: Progress) -> None:
        tell(Moment(one.recipe.model, Stage.TRAINING, progress.step, progress.steps, progress.loss))

    manifest = train(one, steps=steps or one.recipe.steps, threads=threads, bf16=bf16, report=report)
    return manifest, clock.monotonic() - begun


def _measure(
    recipe: Recipe, answer: Answer, *, chat: Answer, samples: int, threads: int, clock: Clock, tell: Watch
) -> tuple[Evaluation, float]:
    import torch

    torch.set_num_threads(threads)
    begun = clock.monotonic()
    done = 0

    def counted(conversations: Sequence[Conversation]) -> list[str]:
        nonlocal done
        said = answer(conversations)
        done += len(said)
        tell(Moment(recipe.model, Stage.MEASURING, done, None))
        return said

    evaluation = evaluate(recipe, counted, chat=chat, samples=samples)
    return evaluation, clock.monotonic() - begun


def side_by_side(calls: Sequence[Callable[[], T]], jobs: int, stop: threading.Event) -> list[T]:
    """Results in order; the first failure, or an interrupt, sets ``stop``, cancels what waits, and is raised."""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
