"""Rows of a file by the ending of its name: CSV, TSV, JSON, JSONL (also in gzip), Parquet."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from sentinel.errors import CommandError

ENDINGS: Final = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""A file with another ending is read as JSONL."""

_MAX_FIELD: Final = 16 * 1024 * 1024
"""Characters of one CSV field; Python's own limit of 131,072 is less than a long jailbreak prompt has."""


def ending(name: str) -> str:
    """What kind of file a name says, without ``.gz``."""
    return Path(name.lower().removesuffix(".gz")).suffix


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Each row as an object; a bare value becomes ``{"prompt": value}``.

    Raises CommandError where the file is missing or cannot be read as what its name says.
    """
    if not path.exists():
        raise CommandError(
            f"{path} is not there: fetch the set yourself, where its licence or a gate asks for it, then name its file"
        )
    kind = ending(path.name)
    try:
        if kind == ".parquet":
            yield from _parquet(path)
            return
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        match kind:
            case ".csv":
                yield from _table(data, ",")
            case ".tsv":
                yield from _table(data, "\t")
            case ".json":
                yield from map(_object, _documents(data))
            case _:
                yield from (_object(orjson.loads(line)) for line in data.splitlines() if line.strip())
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise CommandError(f"{path} cannot be read as {kind or 'JSONL'}: {error}") from error


def _table(data: bytes, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_MAX_FIELD)
    yield from csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter)


def _documents(data: bytes) -> list[Any]:
    document = orjson.loads(data)
    if isinstance(document, dict):
        # {"data": [...]}, or one list for each split.
        return [row for held in document.values() if isinstance(held, list) for row in held]
    if not isinstance(document, list):
        raise ValueError("no list of rows")
    return document


def _object(row: Any) -> dict[str, Any]:
    return row if isinstance(row, dict) else {"prompt": row}


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise CommandError(
            f"{path.name} is a Parquet file, and pyarrow is not installed: pip install 'sentinel-loop[train]'"
        ) from None
    for batch in ParquetFile(path).iter_batches():
        yield from batch.to_pylist()
