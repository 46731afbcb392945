"""A finished data set in a folder and in the store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

from msgspec import Struct

from sentinel.clock import Clock
from sentinel.errors import CommandError
from sentinel.ids import NAMESPACE
from sentinel.manifests import DatasetManifest, ShortcutProbe
from sentinel.settings import Dataset
from trainer.dataset.probe import probe
from trainer.dataset.rows import Row, encoded, redacted
from trainer.dataset.splitting import groups_of, split
from trainer.pairs import Connection
from trainer.run_directory import replace_file

TRAIN: Final = "train.jsonl"
VALIDATION: Final = "validation.jsonl"
MANIFEST: Final = "manifest.json"


class Finished(Struct, frozen=True, kw_only=True):
    """Rows as they will be written."""

    train: bytes
    validation: bytes
    splits: dict[str, int]
    rows: tuple[Row, ...]
    groups: int
    redacted: bool
    redactions: dict[str, int]
    probe: ShortcutProbe


def finish(rows: Iterable[Row], settings: Dataset, seed: int) -> Finished:
    """Redact, split and probe rows; the same rows and seed give the same bytes.

    Raises:
        CommandError: all prompts are near each other, so that nothing can be held out.
    """
    values: Counter[str] = Counter()
    clean: list[Row] = []
    for row in sorted(rows, key=lambda row: row.row_id):
        if settings.redact:
            row, counts = redacted(row)
            values.update(counts)
        clean.append(row)
    groups = groups_of(clean, settings.near_duplicate)
    train, validation = split(clean, groups, share=settings.validation_share, seed=seed)
    if not train or not validation:
        raise CommandError(
            "all prompts are near duplicates of each other: nothing can be held out for validation"
        )
    return Finished(
        train=encoded(train),
        validation=encoded(validation),
        splits={"train": len(train), "validation": len(validation)},
        rows=tuple(clean),
        groups=len(set(groups)),
        redacted=settings.redact,
        redactions=dict(values),
        probe=probe(clean, groups, warn_at=settings.shortcut_auroc, seed=seed),
    )


def write(
    finished: Finished,
    folder: Path,
    *,
    served_model: str,
    dropped: Mapping[str, int],
    seed: int,
    clock: Clock,
    **facts: Any,
) -> DatasetManifest:
    """Write both files and the manifest, which comes last: where it is, the rows are whole.

    ``facts`` are further fields of the manifest. The data set's id follows from its model and content.
    """
    content = hashlib.sha256()
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, data in ((TRAIN, finished.train), (VALIDATION, finished.validation)):
        content.update(f"{name}\x1f{len(data)}\x1f".encode() + data)
        files[name] = hashlib.sha256(data).hexdigest()
        replace_file(folder / name, data)
    sha256 = content.hexdigest()
    manifest = DatasetManifest(
        created_at=clock.now(),
        code_version=version("sentinel-loop"),
        dataset_id=uuid5(NAMESPACE, f"dataset\x1f{served_model}\x1f{sha256}"),
        served_model=served_model,
        content_sha256=sha256,
        rows=len(finished.rows),
        rows_by_kind=_counted(row.kind.value for row in finished.rows),
        rows_by_family=_counted(row.family for row in finished.rows),
        dropped_by_reason={reason: number for reason, number in sorted(dropped.items()) if number},
        splits=finished.splits,
        seed=seed,
        groups=finished.groups,
        redacted=finished.redacted,
        redactions=finished.redactions,
        probe=finished.probe,
        files=files,
        **facts,
    )
    replace_file(folder / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


async def store(conn: Connection, manifest: DatasetManifest, pairs: Sequence[UUID]) -> None:
    """Record the data set and the pairs that it holds. Repeating it changes nothing. Raises what asyncpg raises."""
    async with conn.transaction():
        await conn.execute(
            "INSERT INTO datasets (dataset_id, served_model, content_sha256, rows, manifest)"
            " VALUES ($1, $2, $3, $4, $5::text::jsonb) ON CONFLICT DO NOTHING",
            manifest.dataset_id,
            manifest.served_model,
            manifest.content_sha256,
            manifest.rows,
            manifest.model_dump_json(),
        )
        await conn.execute(
            "INSERT INTO dataset_pairs (dataset_id, pair_id)"
            " SELECT $1, p FROM unnest($2::uuid[]) AS p ON CONFLICT DO NOTHING",
            manifest.dataset_id,
            list(pairs),
        )
