"""A fine-tuning run from rows to an adapter; called again in the same folder it goes on where it stopped.

1. Refuse what cannot work: rows, recipe, hardware, another run's folder.
2. Load the base, resolve the layers, attach a fresh adapter.
3. Train; at every checkpoint ask the validation prompts and grade the answers.
4. Choose the checkpoint by those answers, prove that the base's files are unchanged, write the manifest last.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import orjson
from msgspec import Struct

from sentinel.clock import Clock, SystemClock
from sentinel.errors import CommandError, FatalError
from trainer.finetune import base as bases
from trainer.finetune import checkpoints as register
from trainer.finetune.naming import WEIGHTS, adapter_sha256
from trainer.finetune.outcome import (
    ADAPTER,
    Finetuned,
    base_name,
    choose,
    final_loss,
    read_finetuned,
    write_adapter,
    write_manifest,
)
from trainer.finetune.quiet import quiet_training
from trainer.finetune.recipe import Recipe, dump_recipe
from trainer.finetune.records import ENVIRONMENT, METRICS, SNAPSHOT, Records, environment
from trainer.finetune.refusing import by_refusal
from trainer.finetune.rows import TRAIN, VALIDATION, Row, dataset_sha256, read_rows
from trainer.finetune.running import Overseer, make_trainer, steps_of
from trainer.finetune.validation import Grader, pick
from trainer.reporting import Report, Stage

INPUTS: Final = "inputs.json"


class Inputs(Struct, frozen=True, kw_only=True):
    """What a folder's run was begun with; written first."""

    dataset_sha256: str
    base_sha256: str
    recipe_sha256: str
    seed: int


def finetune(
    dataset: Path,
    base: str | Path,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    grader: Grader | None,
    report: Report,
    clock: Clock | None = None,
) -> Finetuned:
    """Train an adapter on ``dataset`` (train.jsonl, validation.jsonl) over ``base`` and choose its checkpoint.

    ``grader`` says what answers to validation prompts are; None tells refusals by their wording. Blocks for the
    whole run. The same arguments and libraries on the same machine give the same weights.

    Raises:
        ConfigurationError: the recipe does not fit the base or the machine.
        CommandError: the rows are unusable, or the folder belongs to another run.
        TrainingError: the loss became no number, or every checkpoint broke a limit.
    """
    rows, held_out = read_rows(dataset / TRAIN), read_rows(dataset / VALIDATION)
    if not rows:
        raise CommandError(f"{dataset / TRAIN} is empty: nothing to train on")
    planned = steps_of(recipe, len(rows))
    source = bases.base_folder(base)
    inputs = Inputs(
        dataset_sha256=dataset_sha256(dataset),
        base_sha256=bases.base_sha256(source),
        recipe_sha256=_sha256(dump_recipe(recipe)),
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    _check_inputs(folder, inputs)
    if (finished := read_finetuned(folder)) is not None:
        report(Stage("finetune", finished.steps, finished.planned_steps, "done before"))
        return finished
    report(Stage("finetune", 0, planned, "loading"))
    with quiet_training():
        return _train(source, recipe, folder, rows, held_out, inputs, base_name(base), grader, report, clock)


def _train(
    source: Path,
    recipe: Recipe,
    folder: Path,
    rows: list[Row],
    held_out: list[Row],
    inputs: Inputs,
    name: str,
    grader: Grader | None,
    report: Report,
    clock: Clock | None,
) -> Finetuned:
    import transformers
    from accelerate import PartialState

    device = bases.check_hardware(recipe)
    place = PartialState(cpu=device == "cpu")
    main = bool(place.is_main_process)
    records = Records(folder, clock or SystemClock(), writes=main)
    planned = steps_of(recipe, len(rows), place.num_processes)
    records.write(INPUTS, msgspec.json.format(msgspec.json.encode(inputs)))
    records.write(SNAPSHOT, dump_recipe(recipe).encode())
    records.write(
        ENVIRONMENT, orjson.dumps(environment(device, recipe.hardware.threads), option=orjson.OPT_INDENT_2)
    )
    if main:
        register.write(folder, register.resumable(folder, register.read(folder)))
    # All processes must resume from the same step.
    place.wait_for_everyone()
    done = register.read(folder)
    begun = done[-1].step if done else 0
    records.forget_after(begun)
    records.event("resumed" if done else "started", step=begun, steps=planned, rows=len(rows))
    with _threads(recipe.hardware.threads if device == "cpu" else None):
        transformers.set_seed(inputs.seed)
        tokenizer = bases.load_tokenizer(source, recipe)
        model = bases.load_model(source, recipe, device)
        lora = bases.lora_config(model, recipe)
        four_bit = bases.four_bit_layers(model)
        if recipe.quantization == "nf4" and not four_bit:
            raise FatalError("the base was to be loaded in 4 bits and no layer is: bitsandbytes did nothing")
        trainer = make_trainer(
            model, tokenizer, lora, recipe, rows, held_out, folder, device=device, seed=inputs.seed
        )
        items = pick(held_out, recipe.checkpoints.prompts, inputs.seed)
        overseer = Overseer(
            recipe, tokenizer, items, grader or by_refusal, records, report, done=done, main=main
        )
        if not done or (done[-1].stop is None and begun < planned):
            trainer.add_callback(overseer.callback(recipe.checkpoints.every, evaluates=bool(held_out)))
            trainer.train(resume_from_checkpoint=str(register.folder_of(folder, begun)) if done else None)

    chosen, why = choose(overseer.checkpoints)
    if bases.base_sha256(source) != inputs.base_sha256:
        raise FatalError(f"the base's weights in {source} changed during training; nothing was made of it")
    if main:
        write_adapter(folder, chosen, name)
    place.wait_for_everyone()
    result = Finetuned(
        created_at=(clock or SystemClock()).now(),
        code_version=version("sentinel-loop"),
        adapter=folder / ADAPTER,
        weights_sha256=adapter_sha256(folder / ADAPTER),
        adapter_bytes=(folder / ADAPTER / WEIGHTS).stat().st_size,
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        dropout=recipe.lora.dropout,
        target_modules=tuple(sorted(lora.target_modules or ())),
        base=name,
        base_sha256=inputs.base_sha256,
        dataset_sha256=inputs.dataset_sha256,
        recipe_sha256=inputs.recipe_sha256,
        seed=inputs.seed,
        method=recipe.method,
        rows=len(rows),
        steps=overseer.checkpoints[-1].step,
        planned_steps=planned,
        stopped=overseer.checkpoints[-1].stop,
        chosen_step=chosen.step,
        why=why,
        score=chosen.score,
        final_loss=final_loss(folder),
        four_bit_layers=four_bit,
        metrics=folder / METRICS,
        merged=_merge(recipe, source, folder) if main else None,
    )
    write_manifest(records, result)
    records.event(
        "finished", step=result.steps, chosen=result.chosen_step, weights_sha256=result.weights_sha256
    )
    report(Stage("finetune", result.steps, planned, f"checkpoint {chosen.step}: {why}"))
    return result


def _check_inputs(folder: Path, inputs: Inputs) -> None:
    """Refuse a folder in which something else was begun: its checkpoints would be carried over."""
    path = folder / INPUTS
    if not path.exists():
        return
    there = msgspec.json.decode(path.read_bytes(), type=Inputs)
    other = [name for name in Inputs.__struct_fields__ if getattr(there, name) != getattr(inputs, name)]
    if other:
        raise CommandError(
            f"{folder} belongs to a run with another {', '.join(other).replace('_sha256', '')}: take another folder"
        )


def _merge(recipe: Recipe, source: Path, folder: Path) -> Path | None:
    if not recipe.merge:
        return None
    from trainer.merge import merge

    # What an interrupted call left.
    shutil.rmtree(folder / "merged", ignore_errors=True)
    return merge(source, folder / ADAPTER, folder / "merged").folder


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads in torch until the block ends."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
