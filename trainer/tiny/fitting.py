"""The training loop: Muon and AdamW, a trapezoid of rates, batches sorted by length, answers weigh most."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from trainer.tiny.muon import Muon
from trainer.tiny.rows import Source
from trainer.tiny.tokens import MAX_LENGTH, VOCABULARY, encode

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH: Final = 48
SORTED_TOGETHER: Final = 12
"""Batches drawn at once and sorted by length: a twelfth of what is computed is padding, with 4 it was a fifth."""
MUON_RATE: Final = 4e-3
"""At its peak, for the matrices of the layers."""
ADAMW_RATE: Final = 1.2e-2
"""At its peak, for embeddings and norms."""
WARM_UP: Final = 30
"""Steps."""
PROMPT_WEIGHT: Final = 0.1


class Shape(Struct, frozen=True):
    """Sizes of a Llama; heads are 32 wide, as vLLM wants them at least."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 384


class Progress(Struct, frozen=True, gc=False):
    """Where training stands; the loss is the mean over the last steps, in nats per weighted token."""

    step: int
    steps: int
    loss: float
    tokens: int


def make_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights in fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    # The fastest at these sizes; it is not written to the configuration.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def bf16_is_fast() -> bool:
    """Whether the processor multiplies in bfloat16 itself (avx512_bf16 or amx_bf16)."""
    import torch

    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def share_at(step: int, steps: int) -> float:
    """Share of the peak rates: warm-up, constant to half of the steps, then linear down to nothing."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return min(1.0, 2 * (1 - step / steps))


def fit(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    source: Source,
    *,
    guard: bool,
    steps: int,
    seed: int,
    bf16: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> list[float]:
    """Train ``model`` in place on rows drawn from ``source``; the loss of every step.

    With ``bf16`` products are computed in bfloat16, weights stay fp32: quicker where the processor has
    instructions for it (avx512_bf16), many times slower where it has none.
    """
    import torch

    matrices = [one for one in model.model.layers.parameters() if one.ndim == 2]
    others = [one for one in model.parameters() if not any(one is matrix for matrix in matrices)]
    muon = Muon(matrices, bf16=bf16)
    adamw = torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    drawn = batches(tokenizer, source, seed, guard)
    losses: list[float] = []
    tokens = 0
    model.train()
    for step in range(steps):
        share = share_at(step, steps)
        for group in adamw.param_groups:
            group["lr"] = ADAMW_RATE * share
        ids, weights = next(drawn)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = weighted_loss(model, ids, weights)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        muon.step(MUON_RATE * share)
        losses.append(float(loss.detach()))
        tokens += int((weights > 0).sum())
        if report is not None:
            last = losses[-25:]
            report(Progress(step + 1, steps, sum(last) / len(last), tokens))
    model.eval()
    return losses


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of the next token. Logits are made for weighted positions only."""
    import torch

    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    weigh = weights[:, 1:]
    chosen = weigh > 0
    logits = model.lm_head(hidden[chosen])
    each = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")
    weight = weigh[chosen]
    total: Tensor = (each * weight).sum() / weight.sum()
    return total


def batches(
    tokenizer: PreTrainedTokenizerFast, source: Source, seed: int, guard: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and their weights, ``[rows, longest]`` each, without end; a weight of 0 is padding."""
    import torch

    rng = random.Random(seed)
    pad = tokenizer.pad_token_id
    while True:
        rows = [source(rng) for _ in range(BATCH * SORTED_TOGETHER)]
        encoded = sorted(encode(tokenizer, rows, guard=guard), key=lambda row: len(row[0]))
        groups = [encoded[at : at + BATCH] for at in range(0, len(encoded), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            # Padding on the right: causal attention never looks there, so no mask is needed.
            ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in group])
            weights = torch.tensor(
                [
                    [PROMPT_WEIGHT] * before + [1.0] * (len(row) - before) + [0.0] * (width - len(row))
                    for row, before in group
                ]
            )
            yield ids, weights
