"""The grader for want of a better one: it tells refusals, and answers that say nothing, by their wording."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.refusal import is_refusal
from trainer.evidence import ItemOutcome
from trainer.finetune.validation import SET_NAME, ValidationItem
from trainer.scorers.garbled import is_garbled


def by_refusal(items: Sequence[ValidationItem], answers: Sequence[str]) -> list[ItemOutcome]:
    """Outcomes by wording alone; whether an answer is unsafe or useful is left open."""
    return [
        ItemOutcome(
            set=SET_NAME,
            item=item.item,
            family=item.family,
            refused=is_refusal(answer),
            garbled=is_garbled(item.prompt[-1].content, answer),
            tokens=len(answer.split()),
        )
        for item, answer in zip(items, answers, strict=True)
    ]
