"""Greedy answers of a small model, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trainer.finetune.answering import answer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH: Final = 100
MAX_NEW_TOKENS: Final = 64
"""The longest answer of the corpus has about 50."""

Conversation = list[dict[str, str]]


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model of this folder in fp32, with its tokenizer, by stock transformers and without a network."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # What the automatic classes return is annotated too widely.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model.eval()
    return model, tokenizer


def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Conversation]
) -> list[str]:
    """The model's greedy answer to each conversation, in order, at most 64 tokens, special tokens left out."""
    return answer(model, tokenizer, conversations, max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH)
