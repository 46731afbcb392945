"""The embedded models as files: where they lie, what they were made from, and whether they are still that."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from sentinel.digests import sha256_of
from sentinel.errors import ConfigurationError
from sentinel.intervals import Rate

MANIFEST: Final = "manifest.json"
EVALUATION: Final = "evaluation.json"


class Model(StrEnum):
    """The three models; the value is the folder's name and the name they are served under."""

    CHAT = "tiny-chat"
    GUARD_A = "tiny-guard-a"
    GUARD_B = "tiny-guard-b"
    """The independent judge: another seed, another split of the grids, another width."""


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model was made from. Written last: a folder without one is unfinished."""

    schema_version: int = 1
    model: Model
    seed: int
    steps: int
    bf16: bool
    """Whether products were computed in bfloat16; weights were fp32."""
    tokens: int
    """Training tokens, prompts included."""
    loss: float
    """Mean of the last steps, in nats per weighted token."""
    parameters: int
    shape: dict[str, int]
    code_version: str
    code_sha256: str
    """Over the sources that make the corpus and the model."""
    versions: dict[str, str]
    """Of the libraries."""
    evaluation_sets: dict[str, str]
    """Digests of the frozen sets that this corpus keeps from training."""
    files: dict[str, str]
    """sha256 of every other file in the folder."""


class Measured(Struct, frozen=True):
    """Outcomes of one sort of held-out request under one condition; rates are shares of the same n."""

    requests: str
    condition: str
    rates: dict[str, Rate]


class Evaluation(Struct, frozen=True):
    """What a model did on requests that training never saw; greedy answers, fp32, seed ``seed``."""

    model: Model
    seed: int
    measured: tuple[Measured, ...]


def shipped(model: Model) -> Path:
    """The folder of a model that came with the package."""
    return Path(__file__).resolve().parent.parent / "embedded" / "models" / model.value


def verify(folder: Path) -> Manifest:
    """The manifest of ``folder``, after every file was compared with it.

    Raises:
        ConfigurationError: there is none, it cannot be read, or a file is missing, changed or not in it.
    """
    remedy = "rebuild it with `sentinel tiny build`, or reinstall"
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{folder} holds no finished model ({error}): {remedy}") from error
    there = {path.name for path in folder.iterdir() if path.name != MANIFEST}
    odd = there ^ manifest.files.keys()
    if odd:
        raise ConfigurationError(f"{folder}: {', '.join(sorted(odd))} missing or unknown: {remedy}")
    for name, wanted in manifest.files.items():
        if sha256_of(folder / name) != wanted:
            raise ConfigurationError(f"{folder / name} is not the file that was made: {remedy}")
    return manifest


def evaluation_of(folder: Path) -> Evaluation:
    """The figures kept beside a model's weights. Raises ConfigurationError where they cannot be read."""
    try:
        return msgspec.json.decode((folder / EVALUATION).read_bytes(), type=Evaluation)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{folder / EVALUATION} cannot be read: {error}") from error
