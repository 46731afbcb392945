"""Names that say what the weights are: content-addressed, so that no name ever means other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sentinel.digests import sha256_of
from sentinel.errors import CommandError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def adapter_name(served_model: str, weights_sha256: str) -> str:
    """Under which an adapter is stored and served."""
    return f"{served_model}-{weights_sha256[:12]}"


def adapter_sha256(folder: Path) -> str:
    """sha256 of an adapter's weights. Raises CommandError where the folder holds no adapter in safetensors."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise CommandError(f"{folder} holds no adapter ({CONFIG} and {WEIGHTS})")
    return sha256_of(folder / WEIGHTS)
