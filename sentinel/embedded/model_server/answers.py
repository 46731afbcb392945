"""From a checked request to sequences in the engine, and from their pieces to an answer or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sentinel.embedded.model_server.engine import Engine
from sentinel.embedded.model_server.errors import RequestError
from sentinel.embedded.model_server.sampling import TokenLogprobs
from sentinel.embedded.model_server.sequence import Piece, Sequence_


@dataclass(slots=True)
class Choice:
    """One finished answer."""

    sequence: Sequence_
    text: str
    logprobs: list[TokenLogprobs]
    finish: str


class Generation:
    """The sequences of one request. `run` or `pieces` is used once; leaving either early cancels the rest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        self.sequences: list[Sequence_] = []

    @property
    def receive(self) -> Callable[[Piece], None]:
        """Where the sequences deliver to."""
        return self._queue.put_nowait

    def submit(self, sequences: Sequence[Sequence_]) -> None:
        """Hand them to the engine. Raises RequestError when it is gone."""
        self.sequences = list(sequences)
        self._engine.submit(self.sequences)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """News until all are over. Raises RequestError (500) when the model failed."""
        left = len(self.sequences)
        try:
            while left:
                piece = await self._queue.get()
                if piece.error is not None:
                    raise RequestError(piece.error, status=500)
                left -= piece.finish is not None
                yield piece
        finally:
            if left:
                self.cancel()

    async def run(self) -> list[Choice]:
        """Everything at the end, in the order of the sequences."""
        choices = {id(sequence): Choice(sequence, "", [], "") for sequence in self.sequences}
        async for piece in self.pieces():
            choice = choices[id(piece.sequence)]
            choice.text += piece.text
            choice.logprobs += piece.logprobs
            choice.finish = piece.finish or choice.finish
        return list(choices.values())

    def cancel(self) -> None:
        """Let the engine drop what is not over."""
        for sequence in self.sequences:
            sequence.cancelled = True


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"
