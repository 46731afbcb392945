"""One answer in the making: its tokens, its text, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sentinel.embedded.model_server.sampling import Row, Sampling, TokenLogprobs

if TYPE_CHECKING:
    from sentinel.embedded.model_server.adapters import Adapter

_HALF: Final = "\ufffd"
"""What a tokenizer gives for the first bytes of a character whose rest is not there yet."""


class Piece(Struct, frozen=True):
    """News of one sequence: text and tokens since the last piece; ``finish`` and all else in the last one."""

    sequence: Sequence_
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: str | None = None
    """``stop``, ``length`` or ``abort`` at the end."""
    error: str | None = None
    """Why the model failed; the last piece then."""


@dataclass(slots=True, eq=False)
class Sequence_:  # noqa: N801  # `Sequence` is the standard library's word for something else
    """What the engine keeps for one choice of one request. Only the model's thread changes it after submission."""

    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    adapter: Adapter | None
    receive: Callable[[Piece], None]
    """Called in the event loop; the last piece has ``finish`` or ``error``."""
    tokenizer: Any
    index: int = 0
    stops: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    seed: int | None = None
    stream: bool = False
    prompt_logprobs: int | None = None
    """As ``sampling.logprobs``, for the prompt's own tokens."""
    tokens: list[int] = field(default_factory=list)
    prompt_told: list[TokenLogprobs | None] = field(default_factory=list)
    cancelled: bool = False
    deliver: Callable[[Piece], None] = field(init=False)
    """The engine's end of ``receive``, called in the model's thread."""
    row: Row = field(init=False)
    _text: str = ""
    _sent: int = 0
    _decoded: int = 0
    """Tokens whose text is final."""
    _told: list[TokenLogprobs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row = Row(self.sampling, None)

    def prepare(self) -> None:
        """Make the random numbers; called in the model's thread, since torch may not be imported earlier."""
        import torch

        if self.sampling.temperature > 0:
            generator = torch.Generator()
            if self.seed is None:
                generator.seed()
            else:
                # Choices of one request must differ, and each must come again for the same seed.
                generator.manual_seed((self.seed * 1_000_003 + self.index) % (1 << 63))
            self.row = Row(self.sampling, generator)

    def add(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        """Take the next token and tell the client; whether the sequence is over."""
        self.tokens.append(token)
        if logprobs is not None:
            self._told.append(logprobs)
        finish = None
        if token in self.stop_tokens:
            finish = "stop"
        elif len(self.tokens) >= self.max_tokens:
            finish = "length"
        if self.stream or self.stops or finish is not None:
            self._decode(last=finish is not None)
            cut = self._cut()
            if cut is not None:
                self._text = self._text[:cut]
                finish = "stop"
        if finish is not None:
            self._send(len(self._text), finish)
        elif self.stream:
            self._send(len(self._text) - self._held(), None)
        return finish is not None

    def fail(self, why: str) -> None:
        """Tell the client that there will be no more."""
        self.deliver(Piece(self, "", error=why))

    def end(self, finish: str) -> None:
        """End without another token: ``length`` where only the prompt was asked for, ``abort`` after a cancel."""
        self.deliver(Piece(self, "", finish=finish))

    def _decode(self, *, last: bool) -> None:
        """Bring ``_text`` up to date; characters that are not whole wait for their last token."""
        words = self.tokens[:-1] if last and self.tokens[-1] in self.stop_tokens else self.tokens
        # Some tokens before the new ones are decoded along: in several tokenizers spaces depend on the neighbour.
        start = max(self._decoded - 6, 0)
        before = self._text_of(words[start : self._decoded])
        both = self._text_of(words[start:])
        if both.endswith(_HALF) and not last and len(words) - self._decoded < 6:
            return
        self._text += both[len(before) :]
        self._decoded = len(words)

    def _text_of(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _cut(self) -> int | None:
        """Where the first stop string begins."""
        found = [place for word in self.stops if (place := self._text.find(word, self._sent)) >= 0]
        return min(found, default=None)

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = 0
        for word in self.stops:
            for size in range(min(len(word) - 1, len(self._text) - self._sent), longest, -1):
                if self._text.endswith(word[:size]):
                    longest = size
                    break
        return longest

    def _send(self, end: int, finish: str | None) -> None:
        text = self._text[self._sent : end]
        if not text and finish is None and not self._told:
            return
        self._sent = end
        told, self._told = tuple(self._told), []
        self.deliver(Piece(self, text, told, finish))
