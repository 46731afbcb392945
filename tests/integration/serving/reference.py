"""What the tiny model answers, according to plain transformers and PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_llama import TinyLlama

QUESTIONS = ("What is it?", "hello é ☃", "abc", "a much longer question about nothing in particular")
TOKENS = 24


class Reference:
    """Greedy answers and log-probabilities by adapter: ``base``, ``alpha`` or ``beta``."""

    def __init__(self, tiny: TinyLlama) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny.model))
        self._models: dict[str, Any] = {"base": AutoModelForCausalLM.from_pretrained(str(tiny.model))}
        adapters: dict[str, Path] = {"alpha": tiny.alpha, "beta": tiny.beta}
        for name, path in adapters.items():
            base = AutoModelForCausalLM.from_pretrained(str(tiny.model))
            self._models[name] = PeftModel.from_pretrained(base, str(path))
        self._kept: dict[tuple[str, str, int], list[int]] = {}

    def tokens(self, adapter: str, question: str, limit: int = TOKENS) -> list[int]:
        """The greedy answer's tokens, the end included where it came."""
        key = (adapter, question, limit)
        if key not in self._kept:
            asked = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            made = self._models[adapter].generate(**asked, max_new_tokens=limit, do_sample=False)
            self._kept[key] = made[0, asked["input_ids"].shape[1] :].tolist()
        return self._kept[key]

    def text(self, adapter: str, question: str, limit: int = TOKENS) -> str:
        """The greedy answer."""
        text: str = self._tokenizer.decode(self.tokens(adapter, question, limit), skip_special_tokens=True)
        return text

    def words(self, adapter: str, question: str, limit: int = TOKENS) -> list[str]:
        """The greedy answer's tokens as text."""
        return [self._tokenizer.decode([token]) for token in self.tokens(adapter, question, limit)]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        tokens: list[int] = self._tokenizer.encode(text)
        return tokens

    def logprobs(self, adapter: str, tokens: list[int]) -> list[float]:
        """Log-probability of each token after the first."""
        import torch

        ids = torch.tensor([tokens])
        with torch.inference_mode():
            logits = self._models[adapter](input_ids=ids).logits[0, :-1]
        found = torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])
        values: list[float] = found[:, 0].tolist()
        return values
