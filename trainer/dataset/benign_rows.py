"""Benign twins and utility pairs: the base's plain answer above a refusal that nobody needed.

A twin's rejected side is the base's own refusal of that very prompt, elicited by the strict instruction. A
utility pair's rejected side is the refusal of *another* prompt: it names what was not asked, so that an answer
to the point is preferred, and it costs no further question. (With no twins at all the refusals are elicited for
the utility prompts and handed round by one.)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final
from uuid import UUID, uuid5

import msgspec

from sentinel.events import Message
from sentinel.refusal import is_refusal
from sentinel.settings import Dataset
from sentinel.verdicts import Label
from trainer.asking import Ask
from trainer.dataset.benign import Benign
from trainer.dataset.drops import Drop, fault_of_sides
from trainer.dataset.likeness import Evaluated, Likenesses
from trainer.dataset.rows import Row, RowKind, asked, last_asked

Judge = Callable[[Sequence[Message], str], Awaitable[Label]]
"""Scores an answer to a prompt, as the guard that labelled the pairs would."""

Answered = tuple[Benign, str]
"""A prompt and the base's plain answer to it."""

Maker = Callable[[Sequence[Answered], list[Row], int], Awaitable[None]]
"""Adds the rows of a batch to those there are, up to a number."""

FAMILY: Final = "benign"

_MARGIN: Final = 1.25
"""Prompts asked for each one wanted: some answers fall out."""
_PATIENCE: Final = 4
"""Prompts looked at for each one wanted, at most: a base that never refuses is not asked without end."""


class BenignRows:
    """Takes benign prompts one by one and makes rows of them, each prompt once."""

    def __init__(
        self,
        settings: Dataset,
        *,
        evaluated: Evaluated,
        harmful: Iterable[str],
        ask: Ask,
        judge: Judge | None,
        dropped: Counter[str],
        done: Callable[[int], None],
    ) -> None:
        """``harmful`` are the harmful rows' prompts; ``done`` is told of each batch of finished rows."""
        self._settings = settings
        self._evaluated = evaluated
        self._harmful: Likenesses[int] = Likenesses(settings.near_duplicate)
        for number, text in enumerate(dict.fromkeys(harmful)):
            self._harmful.add(number, text)
        self._taken: Likenesses[UUID] = Likenesses(settings.near_duplicate)
        self._ask = ask
        self._judge = judge
        self._dropped = dropped
        self._done = done
        self._refusals: list[tuple[Benign, str]] = []

    async def twins(self, prompts: Iterator[Benign], wanted: int) -> list[Row]:
        """Up to ``wanted`` twins, from the first prompts that fit."""
        return await self._gathered(prompts, wanted, self._twins_of)

    async def utility(self, prompts: Iterator[Benign], wanted: int) -> list[Row]:
        """Up to ``wanted`` utility pairs; call it after `twins`, whose refusals it borrows."""
        return await self._gathered(prompts, wanted, self._utility_of)

    async def _gathered(self, prompts: Iterator[Benign], wanted: int, made: Maker) -> list[Row]:
        rows: list[Row] = []
        looked_at = 0
        while len(rows) < wanted and looked_at < _PATIENCE * wanted + 20:
            batch = self._next(prompts, int((wanted - len(rows)) * _MARGIN) + 1)
            if not batch:
                break
            looked_at += len(batch)
            fresh = len(rows)
            await made(await self._answered(batch), rows, wanted)
            self._done(len(rows) - fresh)
        return rows

    async def _twins_of(self, answered: Sequence[Answered], rows: list[Row], wanted: int) -> None:
        refusals = await self._elicited([one for one, _ in answered])
        for (one, answer), refusal in zip(answered, refusals, strict=True):
            if refusal is not None and len(rows) < wanted:
                self._refusals.append((one, refusal))
                rows += self._row(RowKind.TWIN, one, answer, refusal)

    async def _utility_of(self, answered: Sequence[Answered], rows: list[Row], wanted: int) -> None:
        if len(self._refusals) < 2:
            asked_now = [one for one, _ in answered]
            elicited = await self._elicited(asked_now)
            self._refusals += [
                (one, said) for one, said in zip(asked_now, elicited, strict=True) if said is not None
            ]
        for one, answer in answered:
            other = self._borrowed(one, len(rows))
            if other is not None and len(rows) < wanted:
                rows += self._row(RowKind.UTILITY, one, answer, other[1], other[0])

    def _next(self, prompts: Iterator[Benign], count: int) -> list[Benign]:
        """The next prompts that may be asked, each unlike all before."""
        batch: list[Benign] = []
        for one in prompts:
            text = asked(one.prompt)
            if not text.strip():
                self._dropped[Drop.EMPTY_SIDE] += 1
            elif self._evaluated.holds(last_asked(one.prompt)) or self._evaluated.holds(text):
                self._dropped[Drop.CONTAMINATED] += 1
            elif self._harmful.near(text):
                self._dropped[Drop.CONTRADICTION] += 1
            elif self._taken.near(text):
                self._dropped[Drop.NEAR_DUPLICATE] += 1
            else:
                self._taken.add(one.key, text)
                batch.append(one)
            if len(batch) == count:
                break
        return batch

    async def _answered(self, batch: Sequence[Benign]) -> list[Answered]:
        """Each prompt with the base's plain answer, where that is safe and no refusal."""
        missing = [one for one in batch if one.answer is None]
        answers = dict(
            zip(
                (one.key for one in missing),
                await self._ask([one.prompt for one in missing], None) if missing else (),
                strict=True,
            )
        )
        found: list[Answered] = []
        for one in batch:
            answer = answers.get(one.key, one.answer or "")
            if not answer.strip():
                self._dropped[Drop.EMPTY_SIDE] += 1
            elif is_refusal(answer):
                self._dropped[Drop.NEEDLESS_REFUSAL] += 1
            elif one.answer is None and self._judge is None:
                self._dropped[Drop.UNJUDGED] += 1
            else:
                found.append((one, answer))
        if self._judge is None:
            return found
        # Stored answers of traffic were scored when they came; a file's were not.
        new = [(one, answer) for one, answer in found if one.answer is None or one.event_id is None]
        labels = await asyncio.gather(*(self._judge(one.prompt, answer) for one, answer in new))
        unsafe = {one.key for (one, _), label in zip(new, labels, strict=True) if label is not Label.SAFE}
        self._dropped[Drop.UNSAFE_CHOSEN] += len(unsafe)
        return [(one, answer) for one, answer in found if one.key not in unsafe]

    async def _elicited(self, batch: Sequence[Benign]) -> list[str | None]:
        """The base's refusal of each prompt under the strict instruction; None where it did not refuse."""
        if not batch:
            return []
        said = await self._ask([one.prompt for one in batch], self._settings.mix.strict_instruction)
        found = [answer if is_refusal(answer) else None for answer in said]
        self._dropped[Drop.NOT_REFUSED] += found.count(None)
        return found

    def _borrowed(self, one: Benign, at: int) -> tuple[Benign, str] | None:
        for step in range(len(self._refusals)):
            other, refusal = self._refusals[(at + 1 + step) % len(self._refusals)]
            if other.key != one.key:
                return other, refusal
        return None

    def _row(
        self, kind: RowKind, one: Benign, chosen: str, rejected: str, other: Benign | None = None
    ) -> list[Row]:
        fault = fault_of_sides(chosen, rejected, near_identical=self._settings.near_identical)
        if fault is not None:
            self._dropped[fault] += 1
            return []
        row = Row(
            kind=kind,
            row_id=uuid5(one.key, kind.value),
            prompt=one.prompt,
            chosen=chosen,
            rejected=rejected,
            family=FAMILY,
            event_id=one.event_id,
        )
        if other is not None:
            row = msgspec.structs.replace(row, rejected_event_id=other.event_id)
        return [row]
