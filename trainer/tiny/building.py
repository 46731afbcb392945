"""What makes one of the three models, from a seed to a finished folder: tokenizer, training, files, figures."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

import sentinel.tiny
import trainer.tiny
from sentinel.digests import sha256_of
from sentinel.settings.model import DEFAULT_INSTRUCTION
from sentinel.tiny import evaluation_sets
from sentinel.tiny.artefacts import EVALUATION, MANIFEST, Evaluation, Manifest, Model, verify
from trainer.tiny import answering, rows
from trainer.tiny.evaluation import Answer, measure_chat, measure_guard
from trainer.tiny.fitting import Progress, Shape, fit, make_model
from trainer.tiny.tokens import make_tokenizer, texts_of

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TOKENIZER_ROWS: Final = 6_000
EVALUATION_SEED: Final = 60_451


class Recipe(Struct, frozen=True):
    """What tells the models apart."""

    model: Model
    seed: int
    steps: int
    shape: Shape
    source: rows.Source

    @property
    def guard(self) -> bool:
        """Whether it judges or chats."""
        return self.model is not Model.CHAT


RECIPES: Final = {
    Model.CHAT: Recipe(Model.CHAT, 11, 1_250, Shape(), rows.chat),
    Model.GUARD_A: Recipe(Model.GUARD_A, 23, 600, Shape(), rows.guard),
    Model.GUARD_B: Recipe(
        Model.GUARD_B,
        37,
        600,
        Shape(hidden=96, heads=3, kv_heads=3, mlp=320),
        functools.partial(rows.guard, apart="guard-b"),
    ),
}


class Fresh(Struct, frozen=True):
    """A model with random weights, and what its training needs."""

    recipe: Recipe
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    code_sha256: str


def prepare(recipe: Recipe) -> Fresh:
    """Fit the tokenizer and draw the weights, from torch's one generator: never in two threads at once."""
    # Before the minutes of training, in which somebody may edit.
    code = code_sha256()
    rng = random.Random(recipe.seed)
    drawn = (recipe.source(rng) for _ in range(TOKENIZER_ROWS))
    tokenizer = make_tokenizer(texts_of(drawn), guard=recipe.guard)
    return Fresh(recipe, make_model(recipe.shape, tokenizer, recipe.seed), tokenizer, code)


def train(
    fresh: Fresh,
    *,
    steps: int,
    threads: int = 1,
    bf16: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Train the model in place. The manifest still lacks the digests of files, which `finish` adds.

    The same seed, steps, threads, precision and libraries on the same machine give the same bytes, whatever other
    threads of the process do meanwhile.
    """
    import torch

    torch.set_num_threads(threads)
    recipe = fresh.recipe
    last: list[Progress] = []

    def note(progress: Progress) -> None:
        last[:] = [progress]
        if report is not None:
            report(progress)

    fit(
        fresh.model,
        fresh.tokenizer,
        recipe.source,
        guard=recipe.guard,
        steps=steps,
        seed=recipe.seed,
        bf16=bf16,
        report=note,
    )
    return Manifest(
        model=recipe.model,
        seed=recipe.seed,
        steps=steps,
        bf16=bf16,
        tokens=last[0].tokens,
        loss=round(last[0].loss, 5),
        parameters=sum(each.numel() for each in fresh.model.parameters()),
        shape=msgspec.to_builtins(recipe.shape),
        code_version=importlib.metadata.version("sentinel-loop"),
        code_sha256=fresh.code_sha256,
        versions={name: importlib.metadata.version(name) for name in ("tokenizers", "torch", "transformers")},
        evaluation_sets=evaluation_set_digests(),
        files={},
    )


def measure(recipe: Recipe, folder: Path, *, chat: Path, samples: int = 150) -> Evaluation:
    """Measure a finished model again and replace its figures: the guards, after the chat model was made anew.

    Raises:
        ConfigurationError: the folder's files are not those of its manifest.
    """
    import torch

    # Threads that wait for each other on a busy machine take many times as long.
    torch.set_num_threads(1)
    manifest = verify(folder)
    asked = loaded(chat) if recipe.guard else None
    evaluation = evaluate(recipe, loaded(folder), chat=asked, samples=samples)
    finish(folder, evaluation, manifest)
    return evaluation


def loaded(folder: Path) -> Answer:
    """The files of ``folder`` as anybody would load them."""
    return functools.partial(answering.answers, *answering.load(folder))


def evaluate(recipe: Recipe, answer: Answer, *, chat: Answer | None, samples: int) -> Evaluation:
    """Measure a model on ``samples`` held-out requests of each sort; a guard also on what ``chat`` answers.

    Raises:
        ValueError: a guard is to be measured and ``chat`` is None.
    """
    if not recipe.guard:
        measured = measure_chat(answer, samples, EVALUATION_SEED, DEFAULT_INSTRUCTION)
    elif chat is None:
        raise ValueError("a guard is measured on a chat model's answers: name one")
    else:
        measured = measure_guard(answer, chat, samples, EVALUATION_SEED, DEFAULT_INSTRUCTION)
    return Evaluation(recipe.model, EVALUATION_SEED, measured)


def finish(folder: Path, evaluation: Evaluation, manifest: Manifest) -> None:
    """Write the figures, and last the manifest with the digest of every file."""
    (folder / EVALUATION).write_bytes(msgspec.json.format(msgspec.json.encode(evaluation)) + b"\n")
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    manifest = msgspec.structs.replace(manifest, files=files)
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    verify(folder)


def evaluation_set_digests() -> dict[str, str]:
    """Digests of the frozen evaluation sets."""
    return {
        "harmful": evaluation_sets.digest(evaluation_sets.harmful()),
        "benign": evaluation_sets.digest(evaluation_sets.benign()),
    }


def code_sha256() -> str:
    """One hash over the sources of the language and of its training."""
    whole = hashlib.sha256()
    for package in (sentinel.tiny, trainer.tiny):
        for path in sorted(Path(package.__path__[0]).glob("*.py")):
            whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def save(fresh: Fresh, folder: Path) -> None:
    """Write weights and tokenizer to ``folder``, emptied first.

    Half-precision weights under a configuration that says fp32: small files, and no server computes in fp16.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    fresh.model.half().save_pretrained(folder)
    fresh.tokenizer.save_pretrained(folder)
    config = folder / "config.json"
    settings = msgspec.json.decode(config.read_bytes())
    settings["dtype"] = "float32"
    config.write_bytes(msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    for path in folder.iterdir():
        # safetensors writes for the owner only, and the server may run as somebody else.
        path.chmod(0o644)
