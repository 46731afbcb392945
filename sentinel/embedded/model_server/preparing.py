"""Checked requests become sequences: names resolved, templates applied, limits held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentinel.embedded.model_server.adapters import Adapter
from sentinel.embedded.model_server.answers import Generation
from sentinel.embedded.model_server.errors import RequestError
from sentinel.embedded.model_server.loading import Loaded
from sentinel.embedded.model_server.protocol import (
    BatchChatRequest,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Sampled,
)
from sentinel.embedded.model_server.sampling import Sampling
from sentinel.embedded.model_server.sequence import Sequence_


class Preparation:
    """Makes the sequences of requests for one model."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def chat(self, request: ChatRequest, adapter: Adapter | None, generation: Generation) -> list[Sequence_]:
        """``n`` sequences for the conversation, or one for each conversation of a batch. Raises RequestError."""
        conversations = request.messages if isinstance(request, BatchChatRequest) else [request.messages]
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        limit = request.max_completion_tokens or request.max_tokens
        made = [
            sequence
            for conversation in conversations
            for sequence in self._sequences(
                request, self._conversation(request, conversation), adapter, generation, limit, logprobs
            )
        ]
        made[0].prompt_logprobs = request.prompt_logprobs
        return made

    def completion(
        self, request: CompletionRequest, adapter: Adapter | None, generation: Generation
    ) -> list[Sequence_]:
        """``n`` sequences for each prompt. Raises RequestError."""
        made: list[Sequence_] = []
        for prompt in request.prompts:
            tokens = self._tokens(prompt, special=True) if isinstance(prompt, str) else self._checked(prompt)
            more = self._sequences(request, tokens, adapter, generation, request.max_tokens, request.logprobs)
            for sequence in more:
                sequence.prompt_logprobs = request.logprobs if request.echo else None
            made += more
        return made

    def _conversation(self, request: ChatRequest, messages: Sequence[ChatMessage]) -> list[int]:
        from jinja2 import TemplateError

        turns = [{"role": turn.role, "content": _text(turn)} for turn in messages]
        try:
            text = self._loaded.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                **request.chat_template_kwargs,
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise RequestError(f"the chat template refuses this: {error}", param="messages") from error
        return self._tokens(text, special=False)

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        tokens: list[int] = self._loaded.tokenizer.encode(text, add_special_tokens=special)
        return tokens

    def _checked(self, prompt: list[int]) -> list[int]:
        for token in prompt:
            # An id outside the embedding would end the model's thread, and every other request with it.
            if not 0 <= token < self._loaded.vocabulary:
                raise RequestError(f"Token id {token} is out of vocabulary", param="prompt")
        return prompt

    def _sequences(
        self,
        request: Sampled,
        prompt: list[int],
        adapter: Adapter | None,
        generation: Generation,
        limit: int | None,
        logprobs: int | None,
    ) -> list[Sequence_]:
        room = self._loaded.max_len - len(prompt)
        if not prompt:
            raise RequestError("the prompt is empty")
        # As in vLLM: what cannot be in any answer is refused, what this prompt leaves no room for is cut.
        if room < 1 or (limit or 0) > self._loaded.max_len:
            raise RequestError(
                f"This model's maximum context length is {self._loaded.max_len} tokens; the prompt has "
                f"{len(prompt)} and {limit or 1} are asked for."
            )
        sampling = _sampling(request, self._loaded.sampling, logprobs)
        ends = frozenset() if request.ignore_eos else self._loaded.stop_tokens
        return [
            Sequence_(
                prompt=prompt,
                sampling=sampling,
                max_tokens=room if limit is None else min(limit, room),
                adapter=adapter,
                receive=generation.receive,
                tokenizer=self._loaded.tokenizer,
                index=index,
                stops=request.stops,
                stop_tokens=ends | frozenset(request.stop_token_ids or ()),
                seed=request.seed,
                stream=bool(request.stream),
            )
            for index in range(request.n or 1)
        ]


def _sampling(request: Sampled, default: Sampling, logprobs: int | None) -> Sampling:
    def given(value: Any, otherwise: Any) -> Any:
        return otherwise if value is None else value

    return Sampling(
        temperature=given(request.temperature, default.temperature),
        top_p=given(request.top_p, default.top_p),
        top_k=max(given(request.top_k, default.top_k), 0),
        logprobs=logprobs,
    )


def _text(message: ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text":
            raise RequestError(f"content of type {part.type!r} is not supported", param="messages")
    return "\n".join(part.text or "" for part in message.content)
