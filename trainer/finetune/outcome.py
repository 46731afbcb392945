"""What a run ends with: the chosen checkpoint as an adapter of its own, and a manifest that says what it came from."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from sentinel.errors import CommandError, TrainingError
from trainer.finetune import checkpoints as register
from trainer.finetune.checkpoints import Checkpoint
from trainer.finetune.naming import CONFIG, WEIGHTS, adapter_sha256
from trainer.finetune.records import METRICS, Records
from trainer.finetune.validation import Score

MANIFEST: Final = "manifest.json"
ADAPTER: Final = "adapter"


class Finetuned(Struct, frozen=True, kw_only=True):
    """What a run made. Written as ``manifest.json``, last of all; paths are relative to the run's folder there."""

    schema_version: int = 1
    created_at: dt.datetime
    code_version: str
    adapter: Path
    """Holds ``adapter_config.json`` and ``adapter_model.safetensors``, nothing else."""
    weights_sha256: str
    adapter_bytes: int
    rank: int
    alpha: float
    dropout: float
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


def write_manifest(records: Records, result: Finetuned) -> None:
    """Paths within the folder, so that it can be moved."""
    built = msgspec.to_builtins(result, enc_hook=lambda path: str(path.relative_to(records.folder)))
    records.write(MANIFEST, orjson.dumps(built, option=orjson.OPT_INDENT_2) + b"\n")


def choose(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, str]:
    """The checkpoint whose answers were worth most, and why.

    Raises:
        TrainingError: none is within the limits.
    """
    chosen = register.best(checkpoints)
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
    return (
        chosen,
        f"best answers to validation prompts ({', '.join(shares)}) of {len(checkpoints)} checkpoints",
    )


def write_adapter(folder: Path, chosen: Checkpoint, base: str | Path) -> None:
    """Copy the weights; of the settings the base's place on this machine is left out."""
    source, target = register.folder_of(folder, chosen.step), folder / ADAPTER
    if not register.intact(folder, chosen):
        raise TrainingError(f"{source} is not as it was written: start the run again")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    settings = orjson.loads((source / CONFIG).read_bytes())
    settings["base_model_name_or_path"] = base_name(base)
    settings["target_modules"] = sorted(settings["target_modules"])
    (target / CONFIG).write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def base_name(base: str | Path) -> str:
    """A base's name without its place on this machine."""
    return Path(base).resolve().name if Path(base).is_dir() else str(base)


def final_loss(folder: Path) -> float:
    """The loss of the last step that was made."""
    lines = (orjson.loads(line) for line in (folder / METRICS).read_bytes().splitlines())
    return float([line["loss"] for line in lines if "loss" in line][-1])
