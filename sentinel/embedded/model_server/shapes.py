"""What goes back to clients, as OpenAI's API and vLLM write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentinel.embedded.model_server.sampling import TokenLogprobs
from sentinel.embedded.model_server.sequence import Sequence_


def model_card(
    name: str, *, root: str, parent: str | None, created: int, max_len: int | None
) -> dict[str, Any]:
    """An entry of ``GET /v1/models``."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "sentinel",
        "root": root,
        "parent": parent,
        "max_model_len": max_len,
    }


def usage(sequences: Sequence[Sequence_], *, prompts: int) -> dict[str, int]:
    """Tokens read and written; a prompt that several choices share counts once."""
    read = sum(len(sequence.prompt) for sequence in sequences[:: max(1, len(sequences) // max(1, prompts))])
    written = sum(len(sequence.tokens) for sequence in sequences)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Words:
    """Tokens as text, one by one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def of(self, token: int) -> str:
        """The token's text; half a character is U+FFFD."""
        text: str = self._tokenizer.decode([token])
        return text

    def chat(self, told: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """``choices[].logprobs`` of a chat completion."""
        return {
            "content": [
                self._entry(item.token, item.logprob)
                | {"top_logprobs": [self._entry(token, logprob) for token, logprob in item.top]}
                for item in told
            ]
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        word = self.of(token)
        return {"token": word, "logprob": _finite(logprob), "bytes": list(word.encode("utf-8", "replace"))}

    def prompt(self, told: Sequence[TokenLogprobs | None]) -> list[dict[str, Any] | None]:
        """``prompt_logprobs`` of a chat completion, as vLLM writes them: by id, the prompt's own token first."""
        return [
            None
            if item is None
            else {
                str(token): {"logprob": _finite(logprob), "decoded_token": self.of(token)}
                for token, logprob in ((item.token, item.logprob), *item.top)
            }
            for item in told
        ]

    def completion(
        self, tokens: Sequence[int], told: Sequence[TokenLogprobs | None], *, offset: int = 0
    ) -> dict[str, Any]:
        """``choices[].logprobs`` of a legacy completion; the first token of a prompt has None."""
        words = [self.of(token) for token in tokens]
        offsets = []
        for word in words:
            offsets.append(offset)
            offset += len(word)
        return {
            "tokens": words,
            "token_logprobs": [None if item is None else _finite(item.logprob) for item in told],
            "top_logprobs": [None if item is None else self._top(item) for item in told],
            "text_offset": offsets,
        }

    def _top(self, item: TokenLogprobs) -> dict[str, float]:
        found = {self.of(token): _finite(logprob) for token, logprob in item.top}
        # As in vLLM, the token itself is told beside the likeliest ones.
        found.setdefault(self.of(item.token), _finite(item.logprob))
        return found


def _finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, -9999.0)
