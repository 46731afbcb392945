"""A data set from a JSONL file of pairs that somebody else wrote; no model and no database are asked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID, uuid5

from sentinel.clock import Clock, SystemClock
from sentinel.errors import CommandError
from sentinel.ids import NAMESPACE
from sentinel.manifests import DatasetManifest
from sentinel.refusal import is_refusal
from sentinel.settings import Dataset
from trainer.dataset.drops import Drop, fault_of_sides
from trainer.dataset.harmful import duplicates, is_asked_by
from trainer.dataset.likeness import Evaluated
from trainer.dataset.lines import messages_of, parsed_lines, text_of
from trainer.dataset.rows import Row, RowKind
from trainer.dataset.writing import finish, write
from trainer.pairs import NO_FAMILY
from trainer.reporting import Report, Stage


def import_dataset(
    file: Path,
    *,
    served_model: str,
    settings: Dataset,
    folder: Path,
    evaluation_prompts: Iterable[str],
    seed: int,
    report: Report,
    clock: Clock | None = None,
) -> DatasetManifest:
    """Make a data set of a file's lines; every line is a row or is counted under why it is none.

    A line has ``prompt`` (text or messages), ``chosen`` and ``rejected``, and may have ``category``, ``kind``
    (harmful, twin, utility) and ``event_id``. Without ``kind`` the answers tell: a rejected refusal of what is
    answered is a twin; a chosen refusal of what is answered is harmful; anything else is utility.

    Raises:
        CommandError: a malformed line, by file and number; no usable row; or no benign row beside harmful ones.
    """
    rows = [_row(line, place, number) for number, (place, line) in enumerate(parsed_lines(file))]
    evaluated = Evaluated(evaluation_prompts, settings.near_duplicate)
    dropped: Counter[str] = Counter()
    sound: list[Row] = []
    for at, row in enumerate(rows):
        fault = fault_of_sides(row.chosen, row.rejected, near_identical=settings.near_identical)
        if fault is None and is_asked_by(evaluated, row.prompt):
            fault = Drop.CONTAMINATED
        if fault is None:
            sound.append(row)
        else:
            dropped[fault.value] += 1
        report(Stage("dataset", at, len(rows)))
    doubles = duplicates(sound, settings.near_duplicate)
    dropped.update(why.value for why in doubles.values())
    kept = [row for row in sound if row.row_id not in doubles]
    if not kept:
        raise CommandError(f"{file} holds no usable pair: {dict(dropped)}")
    kinds = {row.kind for row in kept}
    if RowKind.HARMFUL in kinds and len(kinds) == 1:
        raise CommandError(
            f"{file} holds harmful pairs only, and they teach refusing: add benign rows, whose rejected side is"
            ' the needless refusal ("kind": "twin") or an unfit answer ("kind": "utility")'
        )
    manifest = write(
        finish(kept, settings, seed),
        folder,
        served_model=served_model,
        dropped=dropped,
        seed=seed,
        clock=clock or SystemClock(),
        collected=len(rows),
        source=f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}",
        evaluation_prompts=len(evaluated),
    )
    report(Stage("dataset", len(rows), len(rows), f"{manifest.rows} rows"))
    return manifest


def _row(line: dict[str, object], place: str, number: int) -> Row:
    prompt = messages_of(line, "prompt", place)
    chosen, rejected = text_of(line, "chosen", place), text_of(line, "rejected", place)
    text = "\x1f".join((*(f"{m.role}\x1f{m.text}" for m in prompt), chosen, rejected))
    return Row(
        kind=_kind(line, chosen, rejected, place),
        row_id=uuid5(NAMESPACE, f"row\x1f{number}\x1f{text}"),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        family=str(line.get("category") or line.get("family") or NO_FAMILY),
        event_id=_uuid(line, place),
    )


def _kind(line: dict[str, object], chosen: str, rejected: str, place: str) -> RowKind:
    given = line.get("kind")
    if given is not None:
        try:
            return RowKind(str(given))
        except ValueError:
            raise CommandError(f"{place}: kind must be one of {', '.join(RowKind)}") from None
    if is_refusal(rejected):
        return RowKind.TWIN
    return RowKind.HARMFUL if is_refusal(chosen) else RowKind.UTILITY


def _uuid(line: dict[str, object], place: str) -> UUID | None:
    given = line.get("event_id")
    if not given:
        return None
    try:
        return UUID(str(given))
    except ValueError:
        raise CommandError(f"{place}: event_id is no UUID") from None
