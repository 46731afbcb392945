"""Harmful rows from stored pairs: checked, decontaminated, without duplicates, capped, and the base's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from sentinel.events import Message
from sentinel.settings import Dataset
from sentinel.verdicts import Label
from trainer.asking import Ask
from trainer.dataset.benign_rows import Judge
from trainer.dataset.capping import within_places, within_shares
from trainer.dataset.drops import Drop, fault_of_sides
from trainer.dataset.likeness import Evaluated, Likenesses, jaccard, normalised, shingles
from trainer.dataset.rows import Row, RowKind, asked, last_asked
from trainer.pairs import StoredPair

Dropped = dict[UUID, Drop]
"""Pairs that were taken out, and why."""


def usable(
    pairs: Sequence[StoredPair], *, settings: Dataset, evaluated: Evaluated, seed: int
) -> tuple[list[StoredPair], Dropped]:
    """Pairs that may become rows, and the others with their reasons; no model is asked."""
    dropped: Dropped = {}
    sound: list[StoredPair] = []
    for pair in pairs:
        fault = fault_of_sides(pair.chosen, pair.rejected, near_identical=settings.near_identical)
        if fault is None and is_asked_by(evaluated, pair.prompt):
            fault = Drop.CONTAMINATED
        if fault is None:
            sound.append(pair)
        else:
            dropped[pair.pair_id] = fault
    rows = [as_row(pair) for pair in sound]
    doubles = duplicates(rows, settings.near_duplicate)
    dropped |= doubles
    sound = [pair for pair in sound if pair.pair_id not in doubles]
    sound, over = within_shares(sound, share=settings.max_client_share, least=settings.min_pairs, seed=seed)
    dropped |= {pair.pair_id: Drop.CLIENT_SHARE for pair in over}
    sound, over = within_places(sound, places=settings.max_pairs, seed=seed)
    dropped |= {pair.pair_id: Drop.CAPPED for pair in over}
    return sound, dropped


def is_asked_by(evaluated: Evaluated, prompt: Sequence[Message]) -> bool:
    """Whether an evaluation set asks this prompt's last turn, or all its turns together."""
    return evaluated.holds(last_asked(prompt)) or evaluated.holds(asked(prompt))


def as_row(pair: StoredPair) -> Row:
    """The row that a pair makes."""
    return Row(
        kind=RowKind.HARMFUL,
        row_id=pair.pair_id,
        prompt=pair.prompt,
        chosen=pair.chosen,
        rejected=pair.rejected,
        family=pair.family,
        event_id=pair.event_id,
    )


def duplicates(rows: Iterable[Row], threshold: float) -> dict[UUID, Drop]:
    """Rows that repeat an earlier one, exactly or nearly: prompt and both answers alike, each by itself.

    (By all three texts as one, a short request for another object would pass for the same request, since the
    answers' set phrases are most of the text.)
    """
    found: dict[UUID, Drop] = {}
    exact: set[tuple[str, str, str]] = set()
    kept: dict[UUID, tuple[frozenset[str], frozenset[str]]] = {}
    prompts: Likenesses[UUID] = Likenesses(threshold)
    for row in rows:
        text = asked(row.prompt)
        key = (normalised(text), normalised(row.chosen), normalised(row.rejected))
        if key in exact:
            found[row.row_id] = Drop.DUPLICATE
            continue
        exact.add(key)
        chosen, rejected = shingles(row.chosen), shingles(row.rejected)
        if any(
            jaccard(chosen, kept[other][0]) >= threshold and jaccard(rejected, kept[other][1]) >= threshold
            for other in prompts.near(text)
        ):
            found[row.row_id] = Drop.NEAR_DUPLICATE
            continue
        prompts.add(row.row_id, text)
        kept[row.row_id] = (chosen, rejected)
    return found


async def on_policy(
    pairs: Sequence[StoredPair], *, settings: Dataset, ask: Ask, judge: Judge | None, dropped: Counter[str]
) -> tuple[list[StoredPair], int]:
    """Pairs whose rejected side is the base's own, and how many rejected sides were replaced for that.

    Where an adapter gave the unsafe answer the base is asked once: its answer replaces it if ``judge`` calls it
    unsafe, else the pair is counted as off-policy. (What the base would never say teaches it nothing.)
    """
    foreign = [pair for pair in pairs if pair.adapter is not None]
    if not foreign:
        return list(pairs), 0
    replaced: dict[UUID, StoredPair] = {}
    if judge is not None:
        answers = await ask([pair.prompt for pair in foreign], None)
        labels = await asyncio.gather(
            *(judge(pair.prompt, said) for pair, said in zip(foreign, answers, strict=True))
        )
        for pair, said, label in zip(foreign, answers, labels, strict=True):
            fault = fault_of_sides(pair.chosen, said, near_identical=settings.near_identical)
            if label is Label.UNSAFE and fault is None:
                replaced[pair.pair_id] = msgspec.structs.replace(
                    pair, rejected=said, rejected_generator="base", adapter=None
                )
    dropped[Drop.OFF_POLICY] += len(foreign) - len(replaced)
    kept = [
        replaced.get(pair.pair_id, pair) for pair in pairs if pair.adapter is None or pair.pair_id in replaced
    ]
    return kept, len(replaced)
