"""Outcomes of base and incumbent, kept between runs: asked again only when anything that matters has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from sentinel.digests import sha256_of
from trainer.evidence import ItemOutcome
from trainer.run_directory import replace_file

_FORMAT: Final = 1
"""To be raised when outcomes of older releases would be read otherwise."""

ENTRIES: Final = 32
"""Arms that are kept, the latest used: each has all its answers, and every candidate adds one."""


class ArmKey(Struct, frozen=True, kw_only=True):
    """Everything that decides an arm's outcomes. Two runs that agree in it would get the same."""

    base_sha256: str
    adapter_sha256: str | None
    sets: tuple[tuple[str, str, str], ...]
    """Name, kind and hash of each."""
    engine: dict[str, str]
    sampling: dict[str, str]
    seed: int
    detectors: dict[str, str]
    judge_guard_id: str
    scheme: str
    strict: bool
    format: int = _FORMAT

    @property
    def digest(self) -> str:
        """sha256 over all of it."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class _Entry(Struct, frozen=True, kw_only=True):
    key: ArmKey
    outputs_sha256: str
    perplexity: float | None
    outcomes: tuple[ItemOutcome, ...]


class Kept(Struct, frozen=True):
    """What an earlier run found out."""

    outcomes: tuple[ItemOutcome, ...]
    perplexity: float | None


class EvaluationCache:
    """A folder with one entry for each key. An entry that cannot be read, or was changed, counts as none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, key: ArmKey, outputs: Path, judged: Path) -> Kept | None:
        """Copy the raw answers of ``key`` to the two files and return the outcomes; None where there are none."""
        place = self._folder / key.digest
        try:
            entry = msgspec.json.decode((place / "entry.json").read_bytes(), type=_Entry)
            if entry.key != key or sha256_of(place / "outputs.jsonl") != entry.outputs_sha256:
                return None
            shutil.copyfile(place / "judged.jsonl", judged)
            shutil.copyfile(place / "outputs.jsonl", outputs)
            os.utime(place / "entry.json")
        except (OSError, msgspec.DecodeError):
            return None
        return Kept(entry.outcomes, entry.perplexity)

    def keep(
        self,
        key: ArmKey,
        outputs: Path,
        judged: Path,
        outcomes: tuple[ItemOutcome, ...],
        perplexity: float | None,
    ) -> None:
        """Keep an arm, and forget the one that was not used for longest. The entry's own file is written last: half
        an entry is none.
        """
        place = self._folder / key.digest
        place.mkdir(parents=True, exist_ok=True)
        for source, name in ((outputs, "outputs.jsonl"), (judged, "judged.jsonl")):
            partial = place / f".{name}.{os.getpid()}"
            shutil.copyfile(source, partial)
            partial.replace(place / name)
        entry = _Entry(
            key=key,
            outputs_sha256=sha256_of(place / "outputs.jsonl"),
            perplexity=perplexity,
            outcomes=outcomes,
        )
        replace_file(place / "entry.json", msgspec.json.encode(entry))
        self._prune()

    def _prune(self) -> None:
        """An entry that another run reads meanwhile counts as none there: it asks instead."""
        used = sorted(self._folder.glob("*/entry.json"), key=_used, reverse=True)
        for entry in used[ENTRIES:]:
            shutil.rmtree(entry.parent, ignore_errors=True)


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # another run removed it just now
