"""Greedy answers of a small model, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
    import torch

    # Its annotations refuse the very classes that it is a method of.
    generative: Any = model
    texts = [
        str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
        for conversation in conversations
    ]
    # Alike lengths together: less padding.
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    found = [""] * len(texts)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = tokenizer(
            [texts[at] for at in places],
            add_special_tokens=False,
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        with torch.inference_mode():
            output = generative.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
            )
        said = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for at, text in zip(places, said, strict=True):
            found[at] = text
    return found
