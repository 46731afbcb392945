"""The model under watch, asked again: the low-rate chat client for re-prompts and judges."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from sentinel.backoff import retry_after_seconds
from sentinel.clock import Clock, SystemClock
from sentinel.errors import PoisonError, SlowDownError, UnavailableError
from sentinel.events import OWN_TRAFFIC_HEADER, Message

if TYPE_CHECKING:
    import openai

MARKER: Final = "reprompt"
"""Value of the header and metadata key by which a gateway's event of our own call is recognised."""

REFUSED_STATUS: Final = frozenset({400, 413, 422})
"""The request itself is at fault (too long, a role the template does not know): repeating cannot help."""


class ModelOptions(Struct, frozen=True, kw_only=True):
    """How a served model is called; durations in seconds."""

    base_url: str
    """With or without ``/v1``."""
    api_key: str | None = None
    timeout: float = 120.0
    connect_timeout: float = 5.0
    retries: int = 2
    """Repeats on 429, 5xx, timeouts and lost connections, with jitter, after ``Retry-After`` where given."""
    max_tokens: int = 1_024
    temperature: float | None = None
    """None leaves the server's own default."""
    seed: int | None = 0
    """Base of the seed, to which the attempt is added; None sends none."""
    max_response_bytes: int = 8 << 20
    instruction_in: Literal["system", "user"] = "system"
    """``user`` for chat templates without a system role: the instruction stands before the first user text."""
    metadata: bool = True
    """Send the marker as ``metadata`` too (LiteLLM logs it; OpenAI's own service refuses it)."""


class ModelAnswer(Struct, frozen=True, kw_only=True, gc=False):
    """What the model said. Texts have no U+0000."""

    text: str
    reasoning: str = ""
    """Thoughts that the server returned apart; a guard has to see them as well."""
    finish_reason: str | None
    model: str
    """The name that the server answered with: the adapter, where one answered."""
    response_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class ModelClient:
    """A chat client of one server. Opens connections at the first call."""

    def __init__(self, options: ModelOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock: Clock = clock or SystemClock()
        self._client: openai.AsyncOpenAI | None = None
        self._making = asyncio.Lock()

    async def aclose(self) -> None:
        """Close connections; calls in flight are the caller's to end first."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def answer(
        self,
        model: str,
        messages: Sequence[Message],
        safety_instruction: str | None,
        attempt: int = 0,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> ModelAnswer:
        """The model's answer to ``messages`` with the instruction added to the system prompt.

        ``attempt`` counts from 1 for re-prompts; each has a seed of its own.

        Raises:
            PoisonError: the server refuses these messages (reason ``model_refused``).
            SlowDownError: it still asks for less after the retries.
            UnavailableError: no connection, no answer in time, a server error, no chat completion, or the
                model or key is unknown.
        """
        client = await self.connect()
        import openai

        options = self._options
        parameters: dict[str, Any] = {"max_tokens": max_tokens or options.max_tokens}
        heat = temperature if temperature is not None else options.temperature
        if heat is not None:
            parameters["temperature"] = heat
        if options.seed is not None:
            parameters["seed"] = options.seed + attempt
        if options.metadata:
            parameters["metadata"] = {OWN_TRAFFIC_HEADER: MARKER}
        try:
            # The raw answer: the library does not check what it parses, and hands out a completion whose
            # choices are a string.
            raw = await client.chat.completions.with_raw_response.create(
                model=model,
                messages=conversation(messages, safety_instruction, options.instruction_in),  # type: ignore[arg-type]
                **parameters,
            )
        except openai.APITimeoutError as error:
            raise UnavailableError(f"the model did not answer within {options.timeout} s") from error
        except openai.APIStatusError as error:
            raise self._mapped(error) from error
        except openai.APIConnectionError as error:
            raise UnavailableError("the model cannot be reached") from error
        except openai.OpenAIError as error:
            raise UnavailableError(f"the model's client failed: {type(error).__name__}") from error
        return _answer(raw.content, model)

    async def models(self) -> dict[str, str | None]:
        """Names that the server answers to, each with its parent: None for base weights, else an adapter's base.

        Source: the ``parent`` field of vLLM's ``/v1/models``.

        Raises:
            SlowDownError, UnavailableError: as `answer`.
        """
        client = await self.connect()
        import openai

        try:
            raw = await client.with_options(max_retries=0).models.with_raw_response.list()
            cards = _MODELS.decode(raw.content).data
        except openai.APIStatusError as error:
            mapped = self._mapped(error)
            raise mapped if not isinstance(mapped, PoisonError) else UnavailableError(str(mapped)) from error
        except (openai.OpenAIError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError("the model's server does not list its models") from error
        return {card.id: card.parent for card in cards}

    async def connect(self) -> openai.AsyncOpenAI:
        """Load the library and make its client, once; no request is sent. Every call does it where needed.

        A service that bounds its calls awaits this first: the first time in a process takes a second or two.
        """
        if self._client is None:
            async with self._making:
                if self._client is None:
                    # In a thread: the imports and the TLS context would stop the loop for as long.
                    self._client = await asyncio.to_thread(_make_client, self._options)
        return self._client

    def _mapped(self, error: openai.APIStatusError) -> PoisonError | SlowDownError | UnavailableError:
        status = error.status_code
        wait = error.response.headers.get("retry-after")
        if status == 429 or (status == 503 and wait is not None):
            return SlowDownError(f"the model answered {status}", retry_after_seconds(wait, self._clock.now()))
        if status in REFUSED_STATUS:
            return PoisonError("model_refused", f"the model refused the request with {status}")
        if status in {401, 403, 404}:
            return UnavailableError(f"the model answered {status}: check its name, address and key")
        return UnavailableError(f"the model answered {status}")


def _make_client(options: ModelOptions) -> openai.AsyncOpenAI:
    import httpx
    import openai

    from sentinel.bounded_http import bounded_client

    timeout = httpx.Timeout(options.timeout, connect=options.connect_timeout)
    return openai.AsyncOpenAI(
        base_url=options.base_url.rstrip("/").removesuffix("/v1") + "/v1",
        api_key=options.api_key or "none",
        timeout=timeout,
        http_client=bounded_client(options.max_response_bytes, timeout),
        max_retries=options.retries,
        default_headers={OWN_TRAFFIC_HEADER: MARKER},
    )


def conversation(
    messages: Sequence[Message], safety_instruction: str | None, place: Literal["system", "user"]
) -> list[dict[str, str]]:
    """``messages`` for the wire with the instruction added; users' texts stay as they are.

    The application's own system prompt is kept and the instruction follows it in the same message (many
    templates take one system message only); without one a system message is put first. With ``place`` user
    the instruction stands before the first user's text, inside that turn, since such templates also demand
    that turns alternate. Tool results become users' turns: their call ids are not part of an event.
    """
    turns = [
        {"role": _WIRE_ROLES.get(message.role, "user"), "content": message.text.replace("\0", "\ufffd")}
        for message in messages
    ]
    if not safety_instruction:
        return turns
    for turn in turns:
        if turn["role"] == place:
            added, own = safety_instruction, turn["content"]
            parts = (own, added) if place == "system" else (added, own)
            turn["content"] = "\n\n".join(part for part in parts if part)
            return turns
    return [{"role": place, "content": safety_instruction}, *turns]


_WIRE_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(Struct):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Card(Struct):
    id: str
    parent: str | None = None


class _Models(Struct):
    data: list[_Card]


_DECODER: Final = msgspec.json.Decoder(_Completion)
_MODELS: Final = msgspec.json.Decoder(_Models)


def _answer(body: bytes, asked: str) -> ModelAnswer:
    try:
        completion = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError("the model answered no chat completion") from error
    if not completion.choices:
        raise UnavailableError("the model answered no choice")
    choice = completion.choices[0]
    message = choice.message
    usage = completion.usage or _Usage()
    return ModelAnswer(
        text=_clean(message.content or message.refusal),
        # vLLM has called the field by both names; neither is OpenAI's.
        reasoning=_clean(message.reasoning or message.reasoning_content),
        finish_reason=choice.finish_reason,
        model=completion.model or asked,
        response_id=completion.id or None,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
    )


def _clean(text: str | None) -> str:
    return (text or "").replace("\0", "\ufffd")
