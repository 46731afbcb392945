"""From logits to the next token of each row, by the row's own rules and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Sampling(Struct, frozen=True, kw_only=True):
    """How tokens are drawn; temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    logprobs: int | None = None
    """Alternatives to tell for each token; None tells not even the token's own log-probability."""


class TokenLogprobs(Struct, frozen=True):
    """The log-probability of one token before temperature, and those of the likeliest ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Row:
    """One row of logits and what to do with it."""

    sampling: Sampling
    generator: Generator | None


def choose(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token for each row of ``logits`` (float32, rows by vocabulary); draws do not depend on other rows."""
    import torch

    tokens: list[int] = torch.argmax(logits, dim=-1).tolist()
    for number, row in enumerate(rows):
        if row.generator is not None and row.sampling.temperature > 0:
            tokens[number] = _draw(logits[number], row.sampling, row.generator)
    return tokens


def _draw(logits: Tensor, sampling: Sampling, generator: Generator) -> int:
    import torch

    probabilities = torch.softmax(logits / max(sampling.temperature, 1e-3), dim=-1)
    if 0 < sampling.top_k < probabilities.numel():
        floor = torch.topk(probabilities, sampling.top_k).values[-1]
        probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
    if sampling.top_p < 1.0:
        ordered, order = torch.sort(probabilities, descending=True)
        # The token that crosses the share is kept, so that at least one always is.
        before = torch.cumsum(ordered, dim=-1) - ordered
        ordered = ordered.masked_fill(before >= sampling.top_p * probabilities.sum(), 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
    return int(torch.multinomial(probabilities, 1, generator=generator).item())


def describe(
    logits: Tensor, tokens: Sequence[int], alternatives: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """Log-probabilities of ``tokens``, one a row of ``logits``; None where ``alternatives`` has None."""
    import torch

    wanted = [number for number, count in enumerate(alternatives) if count is not None]
    told: list[TokenLogprobs | None] = [None] * len(tokens)
    if not wanted:
        return told
    logprobs = torch.log_softmax(logits[wanted].float(), dim=-1)
    widest = max(count for count in alternatives if count is not None)
    values, ids = torch.topk(logprobs, min(widest, logprobs.shape[-1])) if widest else (None, None)
    for place, number in enumerate(wanted):
        count = alternatives[number] or 0
        top: tuple[tuple[int, float], ...] = ()
        if values is not None and ids is not None:
            top = tuple(zip(ids[place, :count].tolist(), values[place, :count].tolist(), strict=True))
        token = tokens[number]
        told[number] = TokenLogprobs(token, float(logprobs[place, token]), top)
    return told
