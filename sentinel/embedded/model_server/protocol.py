"""What clients send: OpenAI's chat and legacy completions with vLLM's additions, as far as they are answered."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from sentinel.embedded.model_server.errors import RequestError

MAX_TOP_LOGPROBS: Final = 20
MAX_CHOICES: Final = 128

Count = Annotated[int, Meta(ge=1)]
Heat = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Part(Struct):
    """A piece of a message's content; only text is understood."""

    type: str
    text: str | None = None


class ChatMessage(Struct):
    """One turn."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None


class StreamOptions(Struct):
    """What a stream ends with."""

    include_usage: bool | None = None


class Sampled(Struct, kw_only=True):
    """The fields that all generating endpoints share."""

    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    temperature: Heat | None = None
    top_p: Share | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # What would change the answer and is not done here is refused rather than passed over.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_p: float | None = None
    use_beam_search: bool | None = None
    best_of: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None

    def check(self) -> None:
        """Raises RequestError for what this server does not do."""
        unsupported = {
            "presence_penalty": bool(self.presence_penalty),
            "frequency_penalty": bool(self.frequency_penalty),
            "repetition_penalty": self.repetition_penalty not in (None, 1, 1.0),
            "logit_bias": bool(self.logit_bias),
            "min_p": bool(self.min_p),
            "use_beam_search": bool(self.use_beam_search),
            "best_of": self.best_of not in (None, 1, self.n),
            "response_format": (self.response_format or {}).get("type", "text") != "text",
            "structured_outputs": self.structured_outputs is not None,
        }
        for name, asked in unsupported.items():
            if asked:
                raise RequestError(f"the embedded server does not support {name}", param=name)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream", param="stream_options")

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, without empty ones."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(word for word in given if word)


class ChatRequest(Sampled, kw_only=True):
    """``POST /v1/chat/completions``; on ``…/batch`` the messages are a list of conversations."""

    messages: list[ChatMessage]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    tools: list[Any] | None = None

    def check(self) -> None:
        super().check()
        if not self.messages:
            raise RequestError("messages must not be empty", param="messages")
        if self.tools:
            raise RequestError("the embedded server does not support tools", param="tools")
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "a message that is continued takes no generation prompt", param="continue_final_message"
            )
        if self.stream and self.prompt_logprobs is not None:
            raise RequestError("a stream tells no prompt_logprobs", param="prompt_logprobs")


class BatchChatRequest(ChatRequest, kw_only=True):
    """``POST /v1/chat/completions/batch``: one choice for each conversation."""

    messages: list[list[ChatMessage]]  # type: ignore[assignment]  # vLLM's wire form

    def check(self) -> None:
        super().check()
        if self.stream or (self.n or 1) != 1:
            raise RequestError("a batch is answered at once, with one choice for each conversation")
        if self.prompt_logprobs is not None:
            raise RequestError("a batch tells no prompt_logprobs", param="prompt_logprobs")
        if not all(self.messages):
            raise RequestError("messages must not be empty", param="messages")


class CompletionRequest(Sampled, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[str | int | list[int]]
    max_tokens: Annotated[int, Meta(ge=0)] | None = 16
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False
    suffix: str | None = None

    def check(self) -> None:
        super().check()
        if self.suffix:
            raise RequestError("the embedded server does not support suffix", param="suffix")
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens must be at least 1", param="max_tokens")
        if self.echo and self.stream:
            raise RequestError("the embedded server does not stream an echo", param="echo")

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, always as a list. Raises RequestError for a list of several kinds."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise RequestError("prompt must not be empty", param="prompt")
        numbers = [item for item in self.prompt if isinstance(item, int)]
        if numbers and len(numbers) == len(self.prompt):
            return [numbers]
        found = [item for item in self.prompt if not isinstance(item, int)]
        if len({type(item) for item in found}) != 1 or numbers:
            raise RequestError(
                "prompt must be all texts, all token ids or all lists of these", param="prompt"
            )
        return found


class LoadRequest(Struct):
    """``POST /v1/load_lora_adapter``."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadRequest(Struct):
    """``POST /v1/unload_lora_adapter``."""

    lora_name: str
    lora_int_id: int | None = None


T = TypeVar("T")

_FIELD: Final = re.compile(r"`\$\.(\w+)|required field `(\w+)`")
"""Where msgspec says that it found a wrong value."""


def decode(body: bytes, kind: type[T]) -> T:
    """``body`` as ``kind``; unknown fields are passed over. Raises RequestError for anything else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        field = _FIELD.search(str(error))
        raise RequestError(
            f"the request is not understood: {error}", param=None if field is None else field[1] or field[2]
        ) from error
