"""The generating endpoints: whole answers and streams for chats, batches of chats and legacy completions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from sentinel.clock import Clock
from sentinel.embedded.model_server.answers import DONE, Choice, Generation, event
from sentinel.embedded.model_server.engine import Engine
from sentinel.embedded.model_server.errors import RequestError
from sentinel.embedded.model_server.loading import Loaded
from sentinel.embedded.model_server.preparing import Preparation
from sentinel.embedded.model_server.protocol import ChatRequest, CompletionRequest, Sampled
from sentinel.embedded.model_server.registry import Registry
from sentinel.embedded.model_server.sequence import Piece, Sequence_
from sentinel.embedded.model_server.shapes import Words, usage


class Endpoints:
    """Answers checked requests from one model."""

    def __init__(self, loaded: Loaded, registry: Registry, engine: Engine, clock: Clock) -> None:
        self._registry = registry
        self._engine = engine
        self._clock = clock
        self._preparation = Preparation(loaded)
        self._words = Words(loaded.tokenizer)
        self._tokenizer = loaded.tokenizer

    def chat(self, request: ChatRequest) -> tuple[Generation, dict[str, Any]]:
        """Begin a chat completion; the second value is the answer's head. Raises RequestError."""
        request.check()
        generation = Generation(self._engine)
        generation.submit(self._preparation.chat(request, self._registry.find(request.model), generation))
        return generation, self._head("chatcmpl", "chat.completion", request)

    def completion(self, request: CompletionRequest) -> tuple[Generation, dict[str, Any]]:
        """Begin a legacy completion. Raises RequestError."""
        request.check()
        generation = Generation(self._engine)
        generation.submit(
            self._preparation.completion(request, self._registry.find(request.model), generation)
        )
        return generation, self._head("cmpl", "text_completion", request)

    def _head(self, prefix: str, kind: str, request: Sampled) -> dict[str, Any]:
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(self._clock.now().timestamp()),
            "model": request.model or self._registry.base,
        }

    async def chat_answer(
        self, request: ChatRequest, generation: Generation, head: dict[str, Any]
    ) -> dict[str, Any]:
        """The whole chat completion."""
        choices = await generation.run()
        if request.prompt_logprobs is not None:
            head = head | {"prompt_logprobs": self._words.prompt(choices[0].sequence.prompt_told)}
        return head | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": self._words.chat(choice.logprobs) if request.logprobs else None,
                    "finish_reason": choice.finish,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": usage(generation.sequences, prompts=len(choices) // (request.n or 1)),
        }

    async def completion_answer(
        self, request: CompletionRequest, generation: Generation, head: dict[str, Any]
    ) -> dict[str, Any]:
        """The whole legacy completion."""
        choices = await generation.run()
        return head | {
            "choices": [self._text_choice(request, index, choice) for index, choice in enumerate(choices)],
            "usage": usage(generation.sequences, prompts=len(choices) // (request.n or 1)),
        }

    def _text_choice(self, request: CompletionRequest, index: int, choice: Choice) -> dict[str, Any]:
        sequence = choice.sequence
        text, tokens, told = choice.text, [item.token for item in choice.logprobs], [*choice.logprobs]
        if request.echo:
            text = self._tokenizer.decode(sequence.prompt) + text
            tokens = [*sequence.prompt, *tokens]
        logprobs = None
        if request.logprobs is not None:
            logprobs = self._words.completion(tokens, [*sequence.prompt_told, *told])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish}

    async def chat_events(
        self, request: ChatRequest, generation: Generation, head: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        """The stream of a chat completion: the role, the text, how it ended."""
        head = head | {"object": "chat.completion.chunk"}

        def choice(piece: Piece, index: int) -> dict[str, Any]:
            return {
                "index": index,
                "delta": {"content": piece.text},
                "logprobs": self._words.chat(piece.logprobs) if request.logprobs else None,
                "finish_reason": piece.finish,
            }

        for index in range(len(generation.sequences)):
            start = {"index": index, "delta": {"role": "assistant", "content": ""}}
            yield event(head | {"choices": [start | {"logprobs": None, "finish_reason": None}]})
        async with aclosing(self._events(request, generation, head, choice)) as events:
            async for line in events:
                yield line

    async def completion_events(
        self, request: CompletionRequest, generation: Generation, head: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        """The stream of a legacy completion."""
        offsets = [0] * len(generation.sequences)

        def choice(piece: Piece, index: int) -> dict[str, Any]:
            logprobs = None
            if request.logprobs is not None:
                tokens = [item.token for item in piece.logprobs]
                logprobs = self._words.completion(tokens, piece.logprobs, offset=offsets[index])
            offsets[index] += len(piece.text)
            return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

        async with aclosing(self._events(request, generation, head, choice)) as events:
            async for line in events:
                yield line

    @staticmethod
    async def _events(
        request: Sampled,
        generation: Generation,
        head: dict[str, Any],
        choice: Callable[[Piece, int], dict[str, Any]],
    ) -> AsyncGenerator[bytes, None]:
        place = {id(sequence): index for index, sequence in enumerate(generation.sequences)}
        try:
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    yield event(head | {"choices": [choice(piece, place[id(piece.sequence)])]})
        except RequestError as error:
            # The status line is out already: the failure can only be told inside the stream.
            yield event(error.body())
            yield DONE
            return
        if request.stream_options is not None and request.stream_options.include_usage:
            yield event(head | {"choices": [], "usage": _total(generation.sequences, request.n or 1)})
        yield DONE


def _total(sequences: Sequence[Sequence_], n: int) -> dict[str, int]:
    return usage(sequences, prompts=len(sequences) // n)
