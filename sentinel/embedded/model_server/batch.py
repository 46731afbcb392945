"""Rows that are decoded together: left-padded, with one key-value cache that rows join and leave between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


class Batch:
    """The tensors of some rows between two steps.

    ``mask`` is rows by columns (1 where a token is); the layers of ``cache`` hold keys and values (rows, heads,
    columns, width). Positions count a row's own tokens, so padding changes nothing but the last bits of the sums.
    """

    def __init__(self, mask: Tensor, cache: Any) -> None:
        self.mask = mask
        self.cache = cache

    @classmethod
    def prefill(
        cls, model: Any, prompts: Sequence[Sequence[int]], *, every_logit: bool = False
    ) -> tuple[Self, Tensor]:
        """Read the prompts; returns the batch and logits (rows, columns or 1, vocabulary), right-aligned."""
        import torch
        from transformers import DynamicCache

        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, prompt in enumerate(prompts):
            ids[number, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            mask[number, width - len(prompt) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        batch = cls(mask, DynamicCache())
        return batch, batch._forward(model, ids, positions, keep=0 if every_logit else 1)

    def step(self, model: Any, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; returns the logits that follow (rows, vocabulary)."""
        import torch

        ids = torch.tensor(tokens, dtype=torch.long).unsqueeze(1)
        positions = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        return self._forward(model, ids, positions, keep=1)[:, -1]

    def join(self, other: Batch) -> None:
        """Add the rows of ``other`` behind these."""
        import torch

        width = max(self.mask.shape[1], other.mask.shape[1])
        self.mask = torch.cat([_widen(self.mask, width, 1), _widen(other.mask, width, 1)])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_widen(mine.keys, width, 2), _widen(theirs.keys, width, 2)])
            mine.values = torch.cat([_widen(mine.values, width, 2), _widen(theirs.values, width, 2)])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only they used."""
        import torch

        index = torch.tensor(rows, dtype=torch.long)
        mask = self.mask[index]
        first = self.mask.shape[1] - int(mask.sum(-1).max())
        self.mask = mask[:, first:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[index, :, first:], layer.values[index, :, first:]

    def _forward(self, model: Any, ids: Tensor, positions: Tensor, *, keep: int) -> Tensor:
        logits: Tensor = model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits


def _widen(tensor: Tensor, width: int, columns: int) -> Tensor:
    """Zeros on the left of dimension ``columns``, up to ``width``."""
    import torch

    missing = width - tensor.shape[columns]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[columns] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=columns)
