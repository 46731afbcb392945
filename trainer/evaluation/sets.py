"""The sets that the settings name, read, checked against their hashes and ready to be asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import yaml

from sentinel.errors import ConfigurationError
from sentinel.events import Message
from sentinel.resources import data_path
from sentinel.tiny import evaluation_sets
from sentinel.tiny.prompts import Request
from trainer.evaluation.files import read_items
from trainer.evaluation.items import LoadedSet, SetItem, digest, item_id, normalised
from trainer.evidence import SetKind

if TYPE_CHECKING:
    from sentinel.settings import EvaluationSource, Settings

FEW: Final = 20
"""Prompts of the short built-in sets: enough to see that things work, not to certify anything."""

_BUILTIN_KIND: Final = {
    "tiny-harmful": SetKind.HARMFUL,
    "tiny-benign": SetKind.BENIGN,
    "harmful-20": SetKind.HARMFUL,
    "benign-20": SetKind.BENIGN,
}


def load_sets(settings: Settings) -> tuple[LoadedSet, ...]:
    """Every set of ``evaluation.sets``, in that order; none where none is configured. Reads files.

    Raises:
        ConfigurationError: a file is malformed (named with its line), a hash is not the frozen one, or a prompt
            stands in two sets of different kinds.
    """
    found = tuple(load_set(source) for source in settings.evaluation.sets)
    kinds: dict[str, LoadedSet] = {}
    for one in found:
        for prompt in (item.prompt for item in one.items):
            other = kinds.setdefault(normalised(prompt), one)
            if other.kind is not one.kind and SetKind.HARMFUL in {other.kind, one.kind}:
                raise ConfigurationError(
                    f"evaluation sets {other.name} and {one.name} share a prompt; refusing it cannot be both "
                    "right and wrong"
                )
    return found


def load_set(source: EvaluationSource) -> LoadedSet:
    """One set. Raises ConfigurationError as `load_sets`."""
    kind = SetKind(source.kind)
    if source.builtin is not None:
        made = builtin(source.builtin, name=source.name)
        if made.kind is not kind:
            raise ConfigurationError(f"evaluation set {source.name}: {source.builtin} is {made.kind.value}")
    else:
        if source.path is None:  # the settings let no such source pass
            raise ConfigurationError(f"evaluation set {source.name} has no path")
        items = read_items(source.path, kind)
        made = LoadedSet(
            name=source.name, kind=kind, items=items, sha256=digest(items), source=str(source.path)
        )
    if source.sha256 is not None and source.sha256 != made.sha256:
        raise ConfigurationError(
            f"evaluation set {source.name} is not the frozen one: its hash is {made.sha256}, the settings say "
            f"{source.sha256}. A changed set needs a new name and hash"
        )
    return made


def builtin(which: str, *, name: str | None = None) -> LoadedSet:
    """A set that comes with the package. Raises ConfigurationError when it is not the frozen one, or unknown."""
    if which not in _BUILTIN_KIND:
        raise ConfigurationError(f"no built-in evaluation set is called {which}: {', '.join(_BUILTIN_KIND)}")
    kind = _BUILTIN_KIND[which]
    requests = evaluation_sets.harmful() if kind is SetKind.HARMFUL else evaluation_sets.benign()
    sha256 = evaluation_sets.digest(requests)
    frozen = _frozen(kind)
    if sha256 != frozen["sha256"] or len(requests) != frozen["requests"]:
        raise ConfigurationError(
            f"the built-in {kind.value} requests are not those frozen in configs/gates/demo.yaml "
            f"({sha256} instead of {frozen['sha256']}): reinstall"
        )
    if which.endswith(f"-{FEW}"):
        requests = _few(requests)
    items = tuple(item_of(request) for request in requests)
    return LoadedSet(
        name=name or which,
        kind=kind,
        items=items,
        # The full sets carry the hash of their requests, which the policy's file freezes.
        sha256=sha256 if len(items) == frozen["requests"] else digest(items),
        source=f"built-in {which}",
    )


def item_of(request: Request) -> SetItem:
    """A request of the tiny language as an item."""
    messages = (Message("user", request.text),)
    return SetItem(
        id=item_id(messages),
        messages=messages,
        family=request.family,
        reference=None if request.harmful else request.answer,
        request=request,
    )


def _few(requests: Iterable[Request]) -> tuple[Request, ...]:
    """The first of each family in turn, until there are enough."""
    families: dict[str, list[Request]] = {}
    for request in requests:
        families.setdefault(request.family, []).append(request)
    deepest = max(map(len, families.values()))
    turns = (listed[at] for at in range(deepest) for listed in families.values() if at < len(listed))
    return tuple(request for request, _ in zip(turns, range(FEW), strict=False))


def _frozen(kind: SetKind) -> dict[str, Any]:
    path = data_path("configs", "gates", "demo.yaml")
    try:
        found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["evaluation_sets"][
            kind.value
        ]
        return {"requests": int(found["requests"]), "sha256": str(found["sha256"])}
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} does not freeze the {kind.value} set: reinstall") from error
