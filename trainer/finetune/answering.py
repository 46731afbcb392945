"""Greedy answers of the model in training, without disturbing the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.finetune.rows import Chat


def answer(
    model: Any, tokenizer: Any, chats: Sequence[Chat], *, max_new_tokens: int, batch_size: int
) -> list[str]:
    """The greedy answer to each conversation, in order, special tokens left out.

    Draws no random number, so a run that is looked at ends as one that is not.
    """
    import torch

    texts = [
        str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)) for chat in chats
    ]
    # Alike lengths together: less padding.
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    found = [""] * len(texts)
    training, cached = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = tokenizer(
                [texts[at] for at in places],
                add_special_tokens=False,
                return_tensors="pt",
                padding=True,
                padding_side="left",
            ).to(model.device)
            with torch.no_grad():
                output = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    use_cache=True,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            said = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            for at, text in zip(places, said, strict=True):
                found[at] = text.strip()
    finally:
        model.config.use_cache = cached
        model.train(training)
    return found
