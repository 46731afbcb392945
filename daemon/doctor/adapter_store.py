"""The folder that replicas read adapters from: whether the engines' group can, and nobody else can write there."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from daemon.doctor.report import Finding, fail, ok, warn
from sentinel.errors import ConfigurationError
from sentinel.resources import DEFAULT_RANK, recipe_path

if TYPE_CHECKING:
    from sentinel.settings import Settings

PART: Final = "adapters"
_LISTED: Final = 3
"""Names of unreadable files that are told."""


def needing_store(settings: Settings) -> list[str]:
    """Served models with replicas: their adapters go through the store."""
    return sorted(name for name, served in settings.served_models.items() if served.replicas)


def check_store(store: Path, *, same_host: bool = True) -> list[Finding]:
    """Modes and groups of the store and of what lies in it; one that is not there is no fault.

    ``same_host``: an engine reads it under this path, so the folders above must let its group through.
    """
    if not store.is_dir():
        text = f"{store} is not on this host; where the trainer runs, its first promotion makes it"
        return [ok(PART, text)]
    place = store.stat()
    found: list[Finding] = []
    if place.st_mode & stat.S_IWOTH:
        text = f"every user can put weights into {store} (mode {stat.S_IMODE(place.st_mode):04o})"
        found.append(fail(PART, text, f"chmod o-w {store}"))
    if not _enters(place.st_mode, own_group=True):
        text = f"the engines' group cannot read {store} (mode {stat.S_IMODE(place.st_mode):04o})"
        found.append(fail(PART, text, f"chgrp ENGINES {store} && chmod 2750 {store}"))
    closed = closed_above(store) if same_host else []
    if closed:
        text = f"the engines' group cannot reach {store}: {closed[-1]} lets neither it nor others pass"
        remedy = f"chmod o+x {closed[-1]}, give it the store's group, or set adapters.store to another folder"
        found.append(warn(PART, text, remedy))
    if unreadable := _unreadable(store, place.st_gid):
        more = f" and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
        text = f"the engines' group cannot read {', '.join(unreadable[:_LISTED])}{more} in {store}"
        found.append(fail(PART, text, f"chgrp -R --reference={store} {store} && chmod -R g+rX {store}"))
    return found


def closed_above(store: Path) -> list[Path]:
    """Folders above it, nearest first, that a member of its group may not pass."""
    group = store.stat().st_gid
    above = ((folder, folder.stat()) for folder in store.absolute().parents)
    return [folder for folder, about in above if not _passes(about.st_mode, own_group=about.st_gid == group)]


def check_ranks(settings: Settings) -> list[Finding]:
    """The configured recipe's rank against what each served model's replicas accept."""
    rank = _rank_of(settings.training.recipe)
    return [
        fail(
            PART,
            f"{name}: the recipe {settings.training.recipe!r} has rank {rank}, above max_lora_rank"
            f" {settings.served_models[name].max_lora_rank}: its runs are refused",
            f"start the engines with a larger --max-lora-rank and set served_models.{name}.max_lora_rank, or"
            " choose a recipe of a smaller rank",
        )
        for name in needing_store(settings)
        if rank is not None and rank > settings.served_models[name].max_lora_rank
    ]


def _unreadable(store: Path, group: int) -> list[str]:
    """Paths of adapters, relative to the store, that a member of its group cannot read."""
    found = []
    for folder in sorted(store.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        status = folder.stat()
        if not _enters(status.st_mode, own_group=status.st_gid == group):
            found.append(folder.name)
            continue
        for file in sorted(folder.iterdir()):
            about = file.stat()
            readable = about.st_mode & (stat.S_IROTH | (stat.S_IRGRP if about.st_gid == group else 0))
            if not readable:
                found.append(f"{folder.name}/{file.name}")
    return found


def _enters(mode: int, *, own_group: bool) -> bool:
    """Whether a member of the engines' group may list and enter a folder."""
    needed = (stat.S_IRGRP | stat.S_IXGRP) if own_group else (stat.S_IROTH | stat.S_IXOTH)
    return mode & needed == needed


def _passes(mode: int, *, own_group: bool) -> bool:
    return bool(mode & (stat.S_IXGRP if own_group else stat.S_IXOTH))


def _rank_of(recipe: str) -> int | None:
    """Its LoRA rank; None where it cannot be read here, since the trainer, which needs it, tells its faults."""
    try:
        written = yaml.safe_load(recipe_path(recipe).read_text(encoding="utf-8")) or {}
        rank = written.get("lora", {}).get("rank", DEFAULT_RANK)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, ConfigurationError):
        return None
    return rank if isinstance(rank, int) else None
