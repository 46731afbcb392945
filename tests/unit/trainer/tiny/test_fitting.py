"""The training's batches and loss: rows of alike lengths together, and nothing that padding or neighbours change."""

from __future__ import annotations

import random
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from trainer.tiny import rows
from trainer.tiny.fitting import Shape, batches, fit, make_model, share_at, weighted_loss
from trainer.tiny.tokens import make_tokenizer, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    rng = random.Random(1)
    return make_tokenizer(texts_of(rows.chat(rng) for _ in range(400)), guard=False)


def test_the_loss_is_that_of_each_row_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    import torch

    torch.set_num_threads(1)
    model = make_model(Shape(hidden=64, layers=2, heads=2, kv_heads=1, mlp=96), tokenizer, seed=3)
    ids, weights = next(batches(tokenizer, rows.chat, seed=2, guard=False))
    ids, weights = ids[:8], weights[:8]
    lengths = (weights > 0).sum(dim=1).tolist()
    assert len(set(lengths)) > 1
    total = weight = 0.0
    with torch.no_grad():
        together = float(weighted_loss(model, ids, weights))
        for row, own, length in zip(ids, weights, lengths, strict=True):
            # Stock transformers, without padding and without neighbours.
            logits = model(input_ids=row[None, :length]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, row[1:length], reduction="none")
            total += float((each * own[1:length]).sum())
            weight += float(own[1:length].sum())
    assert together == pytest.approx(total / weight, rel=1e-5)


def test_batches_hold_every_drawn_row_and_little_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(9)
    drawn = sorted(rows.chat(rng).target for _ in range(12 * 48))
    found, computed, real = [], 0, 0
    for ids, weights in islice(batches(tokenizer, rows.chat, seed=9, guard=False), 12):
        computed += ids.numel()
        real += int((weights > 0).sum())
        for row, own in zip(ids, weights, strict=True):
            found.append(str(tokenizer.decode(row[own == 1.0], skip_special_tokens=True)))
    assert sorted(found) == drawn
    assert real > 0.88 * computed


def test_rates_rise_stay_and_fall() -> None:
    shares = [share_at(step, 1_000) for step in range(1_000)]
    assert shares[0] == pytest.approx(1 / 30)
    assert set(shares[30:501]) == {1.0}
    assert shares[501:] == sorted(shares[501:], reverse=True)
    assert 0 < shares[-1] < 0.003


@pytest.mark.parametrize("guard", [False, True])
def test_each_kind_of_model_learns(tokenizer: PreTrainedTokenizerFast, guard: bool) -> None:
    import torch

    torch.set_num_threads(1)
    model = make_model(Shape(hidden=64, layers=2, heads=2, kv_heads=1, mlp=96), tokenizer, seed=3)
    losses = fit(model, tokenizer, rows.guard if guard else rows.chat, guard=guard, steps=48, seed=4)
    # Twelve batches hold rows of every length, so that quarters can be compared.
    quarters = [sum(losses[at : at + 12]) / 12 for at in range(0, 48, 12)]
    assert quarters == sorted(quarters, reverse=True)
    assert quarters[-1] < 0.6 * losses[0]
