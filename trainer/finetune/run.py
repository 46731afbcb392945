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
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from sentinel.clock import Clock, SystemClock
from sentinel.errors import CommandError, ConfigurationError, FatalError, TrainingError
from trainer.finetune import base as bases
from trainer.finetune import checkpoints as register
from trainer.finetune.checkpoints import Checkpoint
from trainer.finetune.naming import CONFIG, WEIGHTS, adapter_sha256
from trainer.finetune.recipe import Recipe, dump_recipe
from trainer.finetune.records import ENVIRONMENT, METRICS, SNAPSHOT, Records, environment
from trainer.finetune.refusing import by_refusal
from trainer.finetune.rows import TRAIN, VALIDATION, dataset_sha256, read_rows
from trainer.finetune.running import Overseer, make_trainer, steps_of
from trainer.finetune.validation import Grader, Score, pick
from trainer.reporting import Report, Stage

MANIFEST: Final = "manifest.json"
INPUTS: Final = "inputs.json"
ADAPTER: Final = "adapter"


class Finetuned(Struct, frozen=True, kw_only=True):
    """What a run made. Written as ``manifest.json``, last of all; paths are relative to the run's folder there."""

    schema_version: int = 1
    adapter: Path
    """Holds ``adapter_config.json`` and ``adapter_model.safetensors``, nothing else."""
    weights_sha256: str
    adapter_bytes: int
    rank: int
    target_modules: tuple[str, ...]
    base: str
    base_sha256: str
    """The same before and after."""
    dataset_sha256: str
    recipe_sha256: str
    seed: int
    method: str
    rows: int
    steps: int
    """Steps that were made."""
    planned_steps: int
    stopped: str | None
    """Why the run ended early, None where it ended as planned."""
    chosen_step: int
    why: str
    """Why this checkpoint."""
    score: Score
    final_loss: float
    """Of the last training step."""
    four_bit_layers: int
    metrics: Path
    merged: Path | None = None


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
    base_hash = bases.base_sha256(source)
    inputs = {
        "dataset_sha256": dataset_sha256(dataset),
        "base_sha256": base_hash,
        "recipe_sha256": _sha256(dump_recipe(recipe)),
        "seed": seed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _check_inputs(folder, inputs)
    if (finished := read_finetuned(folder)) is not None:
        report(Stage("finetune", finished.steps, finished.planned_steps, "done before"))
        return finished
    report(Stage("finetune", 0, planned, "loading"))
    device = bases.check_hardware(recipe)
    main, processes = _place()
    records = Records(folder, clock or SystemClock(), writes=main)
    planned = steps_of(recipe, len(rows), processes)
    records.write(INPUTS, orjson.dumps(inputs, option=orjson.OPT_INDENT_2))
    records.write(SNAPSHOT, dump_recipe(recipe).encode())
    records.write(
        ENVIRONMENT, orjson.dumps(environment(device, recipe.hardware.threads), option=orjson.OPT_INDENT_2)
    )
    done = register.resumable(folder, register.read(folder)) if main else register.read(folder)
    records.forget_after(done[-1].step if done else 0)
    records.event("resumed" if done else "started", step=done[-1].step if done else 0, steps=planned, rows=len(rows))

    with _threads(recipe.hardware.threads if device == "cpu" else None):
        import transformers

        transformers.set_seed(seed)
        tokenizer = bases.load_tokenizer(source, recipe)
        model = bases.load_model(source, recipe, device)
        lora = bases.lora_config(model, recipe)
        four_bit = bases.four_bit_layers(model)
        if recipe.quantization == "nf4" and not four_bit:
            raise FatalError("the base was to be loaded in 4 bits and no layer is: bitsandbytes did nothing")
        trainer = make_trainer(
            model, tokenizer, lora, recipe, rows, held_out, folder, device=device, seed=seed
        )
        overseer = Overseer(
            recipe,
            tokenizer,
            pick(held_out, recipe.checkpoints.prompts, seed),
            grader or by_refusal,
            records,
            report,
            done=done,
            main=main,
        )
        if not done or (done[-1].stop is None and done[-1].step < planned):
            trainer.add_callback(overseer.callback(recipe.checkpoints.every, evaluates=bool(held_out)))
            last = str(register.folder_of(folder, done[-1].step)) if done else None
            trainer.train(resume_from_checkpoint=last)

    chosen, why = _choose(folder, overseer.checkpoints)
    if bases.base_sha256(source) != base_hash:
        raise FatalError(f"the base's weights in {source} changed during training; nothing was made of it")
    if main:
        _write_adapter(folder, chosen, base)
    result = Finetuned(
        adapter=folder / ADAPTER,
        weights_sha256=adapter_sha256(folder / ADAPTER),
        adapter_bytes=(folder / ADAPTER / WEIGHTS).stat().st_size,
        rank=recipe.lora.rank,
        target_modules=tuple(sorted(lora.target_modules)),
        base=_base_name(base),
        base_sha256=base_hash,
        dataset_sha256=str(inputs["dataset_sha256"]),
        recipe_sha256=str(inputs["recipe_sha256"]),
        seed=seed,
        method=recipe.method,
        rows=len(rows),
        steps=overseer.checkpoints[-1].step,
        planned_steps=planned,
        stopped=overseer.checkpoints[-1].stop,
        chosen_step=chosen.step,
        why=why,
        score=chosen.score,
        final_loss=_final_loss(folder),
        four_bit_layers=four_bit,
        metrics=folder / METRICS,
        merged=_merge(recipe, source, folder) if main else None,
    )
    _write_manifest(records, result)
    records.event("finished", step=result.steps, chosen=result.chosen_step, weights_sha256=result.weights_sha256)
    report(Stage("finetune", result.steps, planned, f"checkpoint {chosen.step}: {why}"))
    return result


def read_finetuned(folder: Path) -> Finetuned | None:
    """What a finished run in ``folder`` made, after its adapter was compared with its hash; None: not finished."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    found = msgspec.json.decode(path.read_bytes(), type=Finetuned, dec_hook=_path)
    if not (folder / ADAPTER / WEIGHTS).exists() or adapter_sha256(folder / ADAPTER) != found.weights_sha256:
        raise CommandError(f"{folder / ADAPTER} is not what the run made: remove {folder} and train again")
    return msgspec.structs.replace(
        found,
        adapter=folder / found.adapter,
        metrics=folder / found.metrics,
        merged=folder / found.merged if found.merged else None,
    )


def _path(kind: type, value: Any) -> Any:
    return kind(value)


def _write_manifest(records: Records, result: Finetuned) -> None:
    """Paths within the folder, so that it can be moved."""
    built = msgspec.to_builtins(result, enc_hook=lambda path: str(path.relative_to(records.folder)))
    records.write(MANIFEST, orjson.dumps(built, option=orjson.OPT_INDENT_2) + b"\n")


def _check_inputs(folder: Path, inputs: dict[str, object]) -> None:
    """Refuse a folder in which something else was begun: its checkpoints would be carried over."""
    path = folder / INPUTS
    if not path.exists():
        return
    there = orjson.loads(path.read_bytes())
    other = [name for name, value in inputs.items() if there.get(name) != value]
    if other:
        raise CommandError(
            f"{folder} belongs to a run with another {', '.join(other).replace('_sha256', '')}: take another folder"
        )


def _choose(folder: Path, checkpoints: list[Checkpoint]) -> tuple[Checkpoint, str]:
    there = [one for one in checkpoints if register.intact(folder, one)] if _place()[0] else checkpoints
    chosen = register.best(there)
    if chosen is None:
        reason = checkpoints[-1].stop if checkpoints else "no checkpoint was written"
        raise TrainingError(f"no checkpoint is within the limits: {reason}; no adapter was made")
    found = chosen.score
    if found.safety is None and found.usefulness is None:
        if found.loss is None:
            return chosen, "nothing to choose by: the latest within the limits"
        return chosen, f"least validation loss, {found.loss:.4f}"
    shares = [
        f"{name} {share:.3f}"
        for name, share in (("safety", found.safety), ("usefulness", found.usefulness))
        if share is not None
    ]
    return chosen, f"best answers to validation prompts ({', '.join(shares)}) of {len(checkpoints)} checkpoints"


def _write_adapter(folder: Path, chosen: Checkpoint, base: str | Path) -> None:
    """Copy the weights; of the settings the base's place on this machine is left out."""
    source, target = register.folder_of(folder, chosen.step), folder / ADAPTER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    settings = orjson.loads((source / CONFIG).read_bytes())
    settings["base_model_name_or_path"] = _base_name(base)
    settings["target_modules"] = sorted(settings["target_modules"])
    (target / CONFIG).write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def _base_name(base: str | Path) -> str:
    return Path(base).resolve().name if Path(base).is_dir() else str(base)


def _merge(recipe: Recipe, source: Path, folder: Path) -> Path | None:
    if not recipe.merge:
        return None
    from trainer.merge import merge

    return merge(source, folder / ADAPTER, folder / "merged").folder


def _final_loss(folder: Path) -> float:
    lines = (orjson.loads(line) for line in (folder / METRICS).read_bytes().splitlines())
    return float([line["loss"] for line in lines if "loss" in line][-1])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _place() -> tuple[bool, int]:
    """Whether this is the first of the processes that ``accelerate launch`` started, and how many they are."""
    from accelerate import PartialState

    state = PartialState()
    return bool(state.is_main_process), int(state.num_processes)


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
