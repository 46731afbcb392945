"""The folder that replicas read adapters from: whole adapters by name, verified, readable for the engine's group."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from sentinel.digests import sha256_of
from sentinel.errors import CommandError
from trainer.finetune.naming import CONFIG, WEIGHTS, adapter_sha256

FOLDER_MODE: Final = 0o750
FILE_MODE: Final = 0o640

_KEPT: Final = (CONFIG, WEIGHTS, "manifest.json")
_INCOMING: Final = ".incoming-"


def keep(store: Path, name: str, source: Path, weights_sha256: str) -> Path:
    """Copy an adapter to ``store/name`` and return that folder; one that is there already is only verified.

    The copy appears whole or not at all, whenever the process is killed. Blocks on the disk.

    Raises:
        CommandError: there is no adapter at ``source``, or its weights are not those of ``weights_sha256``.
        OSError: the folder cannot be written.
    """
    store.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    with (store / ".lock").open("a") as lock:
        # One copier at a time, so that what lies there half-way is nobody's; a killed one lets go.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _keep(store, name, source, weights_sha256)


def _keep(store: Path, name: str, source: Path, weights_sha256: str) -> Path:
    place = store / name
    if place.is_dir():
        if adapter_sha256(place) == weights_sha256 and _same_config(place, source):
            return place
        if place.resolve() == source.resolve():
            raise CommandError(f"the weights at {place} are not those of {name} any more: train them again")
        # Half a disk restored, or written by hand: content under a content-addressed name must be right.
        shutil.rmtree(place)
    if not source.is_dir():
        raise CommandError(f"the adapter {name} is gone from {source}")
    for left in store.glob(f"{_INCOMING}{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    incoming = Path(tempfile.mkdtemp(prefix=f"{_INCOMING}{name}-", dir=store))
    try:
        for file in _KEPT:
            if (source / file).is_file():
                _copy(source / file, incoming / file)
        # The copy is hashed, not the source: what a replica will read is what must be right.
        found = adapter_sha256(incoming)
        if found != weights_sha256:
            raise CommandError(
                f"the weights at {source} are not those of {name}: sha256 {found[:12]}, not {weights_sha256[:12]}"
            )
        incoming.chmod(FOLDER_MODE)
        incoming.rename(place)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    _sync(store)
    return place


def _same_config(place: Path, source: Path) -> bool:
    """Whether the copy scales its weights as the original does; true where the original is gone."""
    original = source / CONFIG
    return not original.is_file() or sha256_of(original) == sha256_of(place / CONFIG)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
    target.chmod(FILE_MODE)


def _sync(folder: Path) -> None:
    """Make the rename survive a loss of power: the row that names the folder is durable."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
