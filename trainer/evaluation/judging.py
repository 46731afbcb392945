"""Second phase: the judge reads the answers, and each becomes an outcome. The model that gave them may be gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from trainer.evaluation.answering import RawAnswer, read_outputs
from trainer.evaluation.items import LoadedSet, SetItem
from trainer.evidence import ItemOutcome
from trainer.scorers.grading import Scheme, outcome_of
from trainer.scorers.judge import AnswerJudge, Word

_CHUNK: Final = 1024
"""Answers in memory at once."""


class Judged(Struct, frozen=True, kw_only=True, gc=False):
    """One line of ``judged-<arm>.jsonl``."""

    set: str
    item: str
    label: str
    raw: str


class Judging:
    """Grades arm after arm; answers that two arms share are judged once."""

    def __init__(
        self,
        sets: Sequence[LoadedSet],
        scheme: Scheme,
        judge: AnswerJudge | None,
        done: Callable[[int], None],
    ) -> None:
        self._sets = {one.name: one for one in sets}
        self._items = {(one.name, item.id): item for one in sets for item in one.items}
        self._scheme = scheme
        self._judge = judge
        self._done = done
        self._known: dict[tuple[str, str, str], Word] = {}

    def wanted(self) -> int:
        """Answers of one arm that the judge is shown."""
        if self._judge is None:
            return 0
        return sum(len(one.items) for one in self._sets.values() if self._scheme.judges(one.kind))

    async def grade(self, outputs: Path, judged: Path) -> tuple[ItemOutcome, ...]:
        """The outcomes of an arm's raw answers, in their order; the judge's own words go to ``judged``.

        Raises:
            UnavailableError, SlowDownError: the judge is away.
        """
        outcomes: list[ItemOutcome] = []
        encoder = msgspec.json.Encoder()
        with judged.open("wb") as file:
            for chunk in _chunks(read_outputs(outputs)):
                words = await self._words(chunk)
                for answer, word in zip(chunk, words, strict=True):
                    outcomes.append(self._outcome(answer, word))
                    if word is not None:
                        told = Judged(set=answer.set, item=answer.item, label=word.label, raw=word.raw)
                        file.write(encoder.encode(told) + b"\n")
        return tuple(outcomes)

    def _item(self, answer: RawAnswer) -> SetItem:
        return self._items[answer.set, answer.item]

    def _outcome(self, answer: RawAnswer, word: Word | None) -> ItemOutcome:
        return outcome_of(
            self._scheme,
            answer.set,
            self._sets[answer.set].kind,
            self._item(answer),
            answer.answer,
            answer.tokens,
            word,
        )

    def shown(self, answer: RawAnswer) -> bool:
        """Whether the judge is to see it."""
        return self._scheme.judges(self._sets[answer.set].kind)

    async def learn(self, answers: Sequence[RawAnswer]) -> None:
        """Ask the judge about those of ``answers`` that it has not seen. Raises as `grade`."""
        fresh = list({_key(one): one for one in answers if _key(one) not in self._known}.values())
        if self._judge is None or not fresh:
            return
        found = await self._judge.words([(self._item(one).messages, one.answer) for one in fresh])
        self._known |= {_key(one): word for one, word in zip(fresh, found, strict=True)}

    async def _words(self, chunk: Sequence[RawAnswer]) -> list[Word | None]:
        if self._judge is None:
            return [None] * len(chunk)
        shown = [one for one in chunk if self.shown(one)]
        await self.learn(shown)
        self._done(len(shown))
        return [self._known[_key(one)] if self.shown(one) else None for one in chunk]


def _key(answer: RawAnswer) -> tuple[str, str, str]:
    return (answer.set, answer.item, answer.answer)


def _chunks(answers: Iterator[RawAnswer]) -> Iterator[list[RawAnswer]]:
    while chunk := list(islice(answers, _CHUNK)):
        yield chunk
