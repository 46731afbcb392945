"""A new evaluation set: prompts from traffic and files, without duplicates, frozen by its hash."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.neardup import NearDuplicates
from trainer.evaluation.files import read_items
from trainer.evaluation.items import SetItem, digest, normalised
from trainer.evidence import SetKind
from trainer.run_directory import replace_file

FORMAT: Final = 1
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BuiltSet(Struct, frozen=True, kw_only=True):
    """What was built. Written as ``NAME.manifest.json`` beside ``NAME.jsonl``."""

    schema_version: int = FORMAT
    name: str
    kind: SetKind
    items: int
    sha256: str
    """For ``evaluation.sets``: the set is refused when its file has another hash."""
    created_at: dt.datetime
    sources: dict[str, int]
    """Prompts that each source gave."""
    left_out: dict[str, int]
    """Prompts by the reason for which they are not in the set."""


def choose(
    sources: Iterable[tuple[str, Sequence[SetItem]]], most: int, taken: set[str]
) -> tuple[list[SetItem], Counter[str], Counter[str]]:
    """At most ``most`` items, none twice; what stands in ``taken`` (normalised prompts) is left out and added to.

    Returns the items, how many each source gave, and how many were left out by reason.
    """
    kept: list[SetItem] = []
    given: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    near = NearDuplicates()
    for name, items in sources:
        for item in items:
            text = normalised(item.prompt)
            if text in taken:
                left_out["duplicate"] += 1
            elif near.seen(item.prompt):
                left_out["near duplicate"] += 1
            elif len(kept) == most:
                left_out["enough"] += 1
            else:
                taken.add(text)
                kept.append(item)
                given[name] += 1
    return kept, given, left_out


def write_set(
    folder: Path,
    name: str,
    kind: SetKind,
    items: Sequence[SetItem],
    *,
    now: dt.datetime,
    sources: Counter[str],
    left_out: Counter[str],
) -> BuiltSet:
    """Write a set and its manifest, and read it back.

    Raises:
        CommandError: there is a set of that name with other items (frozen sets are never changed), or no item.
    """
    if not _NAME.fullmatch(name):
        raise CommandError(f"a set's name has letters, digits, '.', '_' and '-' only, not {name!r}")
    if not items:
        raise CommandError(f"no prompt was found for the {kind.value} set {name}")
    path = folder / f"{name}.jsonl"
    lines = b"".join(msgspec.json.encode(_row(item)) + b"\n" for item in items)
    if path.exists() and path.read_bytes() != lines:
        raise CommandError(f"{path} is a frozen set with other prompts: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, lines)
    # The hash is that of what will be read, or the frozen one could never be met.
    sha256 = digest(read_items(path, kind))
    built = BuiltSet(
        name=name,
        kind=kind,
        items=len(items),
        sha256=sha256,
        created_at=now,
        sources=dict(sources),
        left_out=dict(left_out),
    )
    replace_file(folder / f"{name}.manifest.json", msgspec.json.format(msgspec.json.encode(built)))
    return built


def _row(item: SetItem) -> dict[str, object]:
    row: dict[str, object] = {"id": item.id}
    if len(item.messages) == 1:
        row["prompt"] = item.prompt
    else:
        row["messages"] = [{"role": turn.role, "content": turn.text} for turn in item.messages]
    return row | {
        name: value for name, value in (("family", item.family), ("reference", item.reference)) if value
    }
