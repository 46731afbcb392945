"""What a run leaves behind for people and for whoever repeats it: metrics, events, environment, samples."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from sentinel.clock import Clock
from trainer.evidence import ItemOutcome
from trainer.finetune.rows import as_chat
from trainer.finetune.validation import ValidationItem
from trainer.run_directory import replace_file

METRICS: Final = "train_metrics.jsonl"
EVENTS: Final = "events.jsonl"
ENVIRONMENT: Final = "env.json"
SNAPSHOT: Final = "config_snapshot.yaml"
SAMPLES: Final = "samples"
SAMPLE_SIZE: Final = 50
"""Answers kept of each checkpoint."""

_LIBRARIES: Final = (
    "accelerate", "bitsandbytes", "datasets", "peft", "safetensors", "sentinel-loop", "tokenizers", "torch",
    "transformers", "trl",
)  # fmt: skip


class Records:
    """Writes the files of one run; a second process of the same run writes nothing (``writes=False``)."""

    def __init__(self, folder: Path, clock: Clock, *, writes: bool = True) -> None:
        self.folder = folder
        self._clock = clock
        self._writes = writes

    def event(self, action: str, **fields: object) -> None:
        """Append to ``events.jsonl``: when, what, and its fields."""
        self._append(EVENTS, {"ts": self._clock.now().isoformat(), "action": action, **fields})

    def metrics(self, step: int, figures: Mapping[str, object]) -> None:
        """Append a step's figures to ``train_metrics.jsonl``."""
        self._append(METRICS, {"ts": self._clock.now().isoformat(), "step": step, **figures})

    def forget_after(self, step: int) -> None:
        """Drop the figures of steps that will be done again."""
        path = self.folder / METRICS
        if self._writes and path.exists():
            kept = [line for line in path.read_bytes().splitlines() if _step_of(line) <= step]
            replace_file(path, b"".join(line + b"\n" for line in kept))

    def samples(
        self,
        step: int,
        items: Sequence[ValidationItem],
        answers: Sequence[str],
        outcomes: Sequence[ItemOutcome],
    ) -> None:
        """Keep the first 50 answers of a checkpoint, with what the grader said of each."""
        if not self._writes:
            return
        target = self.folder / SAMPLES / f"step-{step:06d}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        graded = list(zip(items, answers, outcomes, strict=True))[:SAMPLE_SIZE]
        replace_file(
            target,
            b"".join(
                orjson.dumps(
                    {
                        "item": item.item,
                        "kind": item.kind,
                        "prompt": as_chat(item.prompt),
                        "chosen": item.chosen,
                        "answer": answer,
                        "refused": outcome.refused,
                        "unsafe": outcome.unsafe,
                        "garbled": outcome.garbled,
                        "useful": outcome.useful,
                    }
                )
                + b"\n"
                for item, answer, outcome in graded
            ),
        )

    def write(self, name: str, content: bytes) -> None:
        """Replace a whole file."""
        if self._writes:
            replace_file(self.folder / name, content)

    def _append(self, name: str, fields: Mapping[str, object]) -> None:
        if self._writes:
            with (self.folder / name).open("ab") as file:
                file.write(orjson.dumps(fields, default=str) + b"\n")


def _step_of(line: bytes) -> float:
    """Its step; a line that a loss of power cut off belongs to none."""
    try:
        return float(orjson.loads(line)["step"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return math.inf


def environment(device: str, threads: int) -> dict[str, object]:
    """Where the run is made: Python, platform, libraries, commit."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": device,
        "threads": threads,
        "versions": versions,
        "git": git_commit(Path(__file__).resolve().parents[2]),
    }


def git_commit(place: Path) -> str:
    """Short hash of the checkout that ``place`` is the root of, ``nogit`` where it is none."""
    if not (place / ".git").exists():
        return "nogit"
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "nogit"
    return found.stdout.strip()
