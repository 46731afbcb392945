"""What the pipeline asks of a guard, and what one guard model's grammar has to say."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from sentinel.errors import ConfigurationError
from sentinel.events import Message
from sentinel.verdicts import Assessment, Role

Conversation = list[dict[str, str]]
"""Chat messages as the wire wants them: ``[{"role": ..., "content": ...}]``."""


class GuardRequest(Struct, frozen=True, gc=False):
    """One text to be judged, with the conversation before it."""

    role: Role
    messages: tuple[Message, ...]
    response: str | None = None
    """The answer to judge; None for a check of the prompt."""


class GuardFailure(Struct, frozen=True, gc=False):
    """This one text could not be judged although the guard works; ``reason`` is one of `UNSCORED_REASONS`."""

    reason: str
    detail: str = ""
    """For people; holds no prompt or response text."""


Judgement = Assessment | GuardFailure


class TokenLogprob(Struct, frozen=True, gc=False):
    """One generated token with the natural-log probabilities of its rivals (OpenAI's ``logprobs.content``)."""

    token: str
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


class TopLogprob(Struct, frozen=True, gc=False):
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float


@runtime_checkable
class GuardGrammar(Protocol):
    """How one guard model is asked and how its answer is read. Pure: no input or output, never blocks."""

    @property
    def name(self) -> str:
        """The name in settings; the same as the module's."""

    @property
    def template(self) -> str:
        """Version of the conversation's form; part of the guard's identity."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Every category that an assessment may name; metrics have one series for each."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Sampling parameters of the request; part of the guard's identity."""

    def conversation(self, request: GuardRequest) -> Conversation:
        """The chat messages that ask about ``request``. Raises nothing."""

    def parse(self, role: Role, text: str, logprobs: Sequence[TokenLogprob] | None) -> Assessment:
        """Read the model's answer about a text of ``role``.

        Never raises: an answer outside the grammar is `Label.UNPARSEABLE`, which no policy calls safe.
        """


class Guard(Protocol):
    """A full guard as the pipeline uses it."""

    @property
    def guard_id(self) -> str:
        """16 hex digits over model, weights, template and sampling (`sentinel.ids.guard_id`)."""

    @property
    def model(self) -> str:
        """The model's name at its server."""

    @property
    def template(self) -> str:
        """Grammar and template version, ``name/version``."""

    async def assess(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        """Judge ``requests``; the result has the same length and order.

        Raises:
            UnavailableError: the guard as a whole is away, a probe text fails too.
            SlowDownError: it asks for less for longer than the client is willing to wait.
        """

    async def probe(self) -> bool:
        """Whether a harmless text gets a readable verdict. Does not raise for a guard that is away."""

    async def aclose(self) -> None:
        """Close connections; calls in flight are the caller's to end first."""


def grammar_names() -> tuple[str, ...]:
    """Names of the grammars in this folder, sorted: every module that defines ``GRAMMAR``."""
    found = []
    for module in pkgutil.iter_modules(importlib.import_module("sentinel.guards").__path__):
        if hasattr(importlib.import_module(f"sentinel.guards.{module.name}"), "GRAMMAR"):
            found.append(module.name)
    return tuple(sorted(found))


def load_grammar(name: str) -> GuardGrammar:
    """The grammar of module ``sentinel.guards.<name>``.

    Raises:
        ConfigurationError: there is none of that name; the message lists those there are.
    """
    names = grammar_names()
    if name not in names:
        raise ConfigurationError(f"guard.grammar {name!r} is unknown; known: {', '.join(names)}")
    grammar = importlib.import_module(f"sentinel.guards.{name}").GRAMMAR
    if not isinstance(grammar, GuardGrammar):
        raise ConfigurationError(f"sentinel.guards.{name}.GRAMMAR is not a guard grammar")
    return grammar
