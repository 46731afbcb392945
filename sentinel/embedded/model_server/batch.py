"""Rows that are decoded together: left-padded, with one key-value cache that rows join and leave between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


class Batch:
    """The tensors of some rows between two steps.

    ``mask`` is rows by columns (1 where a token is), ``layers`` holds keys and values (rows, heads, columns,
    width). Positions count a row's own tokens, so padding changes nothing but the last bits of the sums.
    """

    def __init__(self, mask: Tensor, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.mask = mask
        self.layers = layers

    @classmethod
    def prefill(
        cls, model: Any, prompts: Sequence[Sequence[int]], *, every_logit: bool = False
    ) -> tuple[Self, Tensor]:
        """Read the prompts; returns the batch and logits (rows, columns or 1, vocabulary), right-aligned."""
        import torch

        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, prompt in enumerate(prompts):
            ids[number, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            mask[number, width - len(prompt) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits, layers = _forward(model, ids, mask, positions, None, keep=0 if every_logit else 1)
        return cls(mask, layers), logits

    def step(self, model: Any, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; returns the logits that follow (rows, vocabulary)."""
        import torch

        ids = torch.tensor(tokens, dtype=torch.long).unsqueeze(1)
        positions = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        logits, self.layers = _forward(model, ids, self.mask, positions, self.layers, keep=1)
        return logits[:, -1]

    def join(self, other: Batch) -> None:
        """Add the rows of ``other`` behind these."""
        import torch

        width = max(self.mask.shape[1], other.mask.shape[1])
        self.mask = torch.cat([_widen(self.mask, width, 1), _widen(other.mask, width, 1)])
        self.layers = [
            (
                torch.cat([_widen(mine[0], width, 2), _widen(theirs[0], width, 2)]),
                torch.cat([_widen(mine[1], width, 2), _widen(theirs[1], width, 2)]),
            )
            for mine, theirs in zip(self.layers, other.layers, strict=True)
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only they used."""
        import torch

        index = torch.tensor(rows, dtype=torch.long)
        mask = self.mask[index]
        first = self.mask.shape[1] - int(mask.sum(-1).max())
        self.mask = mask[:, first:]
        self.layers = [(keys[index, :, first:], values[index, :, first:]) for keys, values in self.layers]


def _widen(tensor: Tensor, width: int, columns: int) -> Tensor:
    """Zeros on the left of dimension ``columns``, up to ``width``."""
    import torch

    missing = width - tensor.shape[columns]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[columns] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=columns)


def _forward(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    layers: list[tuple[Tensor, Tensor]] | None,
    *,
    keep: int,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers or ()):
        cache.update(keys, values, number)
    found = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
    layers_now: Any = cache.layers
    return found.logits, [(layer.keys, layer.values) for layer in layers_now]
