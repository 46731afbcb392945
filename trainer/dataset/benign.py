"""Benign prompts for twins and utility pairs: from traffic, a file or the Hub, each with a plain answer if known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

import orjson
from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.events import Message
from sentinel.ids import NAMESPACE
from sentinel.refusal import is_refusal
from sentinel.reserved import is_reserved
from sentinel.settings import Settings
from trainer.attribution import load_attribution
from trainer.dataset.drops import Drop
from trainer.dataset.likeness import words
from trainer.dataset.lines import messages_of, parsed_lines, text_of
from trainer.dataset.rows import asked, rank
from trainer.pairs import Connection

_BORDERLINE: Final = math.log(2.0)
"""A word that harmful prompts use twice as often as benign ones makes a benign prompt borderline."""

_TRAFFIC = """
SELECT i.event_id, i.conversation_id, i.received_at, i.served_by, i.model, i.prompt_label,
    t.messages::text AS messages, t.response
FROM interactions i JOIN interaction_texts t USING (day, event_id)
WHERE i.served_model = $1 AND i.outcome = 'stored' AND NOT i.unsafe AND i.response_label = 'safe'
    AND i.refusal IS NOT TRUE AND i.prompt_label IS DISTINCT FROM 'unsafe'
    AND i.unscanned_parts = 0 AND t.response_extra = '' AND t.response <> ''
ORDER BY i.received_at DESC, i.event_id LIMIT $2
"""


class Benign(Struct, frozen=True, kw_only=True):
    """A prompt that should be answered."""

    key: UUID
    """The event's id, or one made of the file's text."""
    prompt: tuple[Message, ...]
    answer: str | None
    """The base's own safe answer; None: the base has to be asked."""
    event_id: UUID | None
    marked: bool = False
    """A guard or the file itself calls it borderline."""


async def candidates(
    conn: Connection | None, served_model: str, settings: Settings, dropped: Counter[str]
) -> list[Benign]:
    """Every benign prompt that the configured source has, newest or first ones first.

    Of traffic: answers that the full guard called safe and that refuse nothing; prompts that it called unsafe
    are left out, since its two verdicts contradict each other. An answer of an adapter is left away: both sides
    of a row are the base's own. Of files: whoever wrote the file vouches for it.

    Raises:
        CommandError: the file or the Hub's data set cannot be read; a line is named by its number.
    """
    benign = settings.dataset.mix.benign
    if benign.source == "file":
        assert benign.path is not None  # noqa: S101  # checked by the settings
        return _from_file(benign.path, benign.max_candidates)
    if benign.source == "hub":
        return _from_hub(str(benign.name), benign.split, benign.max_candidates)
    if conn is None:
        raise CommandError("dataset.mix.benign.source is traffic, which needs the database")
    model = settings.served_models.get(served_model)
    attribution = await load_attribution(conn, served_model, None if model is None else model.base)
    found = []
    for row in await conn.fetch(_TRAFFIC, served_model, benign.max_candidates):
        prompt = tuple(Message(m["role"], m["text"]) for m in orjson.loads(row["messages"]))
        if is_reserved(row["conversation_id"], prompt, settings.evaluation.reserved_share):
            dropped[Drop.RESERVED] += 1
        elif is_refusal(row["response"]):
            dropped[Drop.NEEDLESS_REFUSAL] += 1
        else:
            adapter = attribution.adapter(row["served_by"], row["model"], row["received_at"])
            found.append(
                Benign(
                    key=row["event_id"],
                    prompt=prompt,
                    answer=row["response"] if adapter is None else None,
                    event_id=row["event_id"],
                    marked=row["prompt_label"] == "controversial",
                )
            )
    return found


def _from_file(path: Path, most: int) -> list[Benign]:
    rows: list[Benign] = []
    for place, line in parsed_lines(path):
        if len(rows) == most:
            break
        rows.append(_of_line(line, place))
    return rows


def _from_hub(name: str, split: str, most: int) -> list[Benign]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        loaded: Any = load_dataset(name, split=split, streaming=True)
        return [_of_line(line, f"{name} {split} row {at}") for at, line in enumerate(loaded.take(most), 1)]
    except (DatasetsError, OSError, ValueError) as error:
        raise CommandError(f"the data set {name} cannot be read from the Hub: {error}") from error


def _of_line(line: dict[str, Any], place: str) -> Benign:
    prompt = messages_of(line, "prompt", place)
    answer = text_of(line, "response", place) if line.get("response") else None
    return Benign(
        key=uuid5(NAMESPACE, f"benign\x1f{asked(prompt)}"),
        prompt=prompt,
        answer=answer,
        event_id=None,
        marked=bool(line.get("borderline")),
    )


def ordered(found: Sequence[Benign], harmful: Iterable[str], seed: int) -> tuple[list[Benign], list[Benign]]:
    """Borderline prompts, those that look most harmful first, and the others; ties are drawn by the seed.

    Borderline is what is marked so, and what holds a word that the harmful prompts use at least twice as often
    (by smoothed shares of prompts, and in two of them at least): "stab a potato" beside requests to stab people.
    """
    in_harmful, harmful_total = _document_counts(harmful)
    in_benign, benign_total = _document_counts(asked(one.prompt) for one in found)

    def strength(word: str) -> float:
        if in_harmful[word] < 2:
            return 0.0
        harmful_share = (in_harmful[word] + 0.5) / (harmful_total + 1)
        return math.log(harmful_share) - math.log((in_benign[word] + 0.5) / (benign_total + 1))

    borderline: list[tuple[float, Benign]] = []
    others: list[Benign] = []
    for one in sorted(found, key=lambda one: rank(seed, "benign", one.key)):
        strongest = max(map(strength, words(asked(one.prompt))), default=0.0)
        if one.marked or strongest >= _BORDERLINE:
            borderline.append((math.inf if one.marked else strongest, one))
        else:
            others.append(one)
    # In steps of a half: among words of like strength the seed decides, not the third decimal.
    borderline.sort(
        key=lambda scored: scored[0] if math.isinf(scored[0]) else round(2 * scored[0]), reverse=True
    )
    return [one for _, one in borderline], others


def _document_counts(texts: Iterable[str]) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        counts.update(set(words(text)))
        total += 1
    return counts, total
