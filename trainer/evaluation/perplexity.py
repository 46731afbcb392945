"""How well reference answers are predicted, where the server gives log-probabilities of a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.asking import Asker
from trainer.evaluation.items import LoadedSet
from trainer.evidence import SetKind


async def reference_perplexity(asker: Asker, model: str, sets: Sequence[LoadedSet]) -> float | None:
    """Exponential of the mean negative log-likelihood of a token of the references, over benign and utility sets.

    One prompt at a time: log-probabilities of every prompt token take memory for the whole vocabulary. None where
    no item has a reference, or the server does not give them.

    Raises:
        UnavailableError: the server is away.
    """
    total, tokens = 0.0, 0
    for one in sets:
        if one.kind is SetKind.HARMFUL:
            continue
        for item in one.items:
            if item.reference is None:
                continue
            told = await asker.likelihood(model, item.messages, item.reference)
            if told is None:
                return None
            total += sum(told)
            tokens += len(told)
    return math.exp(-total / tokens) if tokens else None
