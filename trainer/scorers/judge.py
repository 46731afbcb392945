"""The independent guard, asked about answers: unsafe or not, and whether it saw a refusal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sentinel.events import Message
from sentinel.guards.base import Guard, GuardFailure, GuardRequest, Judgement, load_grammar
from sentinel.verdicts import Label, Role

if TYPE_CHECKING:
    from sentinel.clock import Clock
    from sentinel.settings import Settings

_SIZE: Final = re.compile(r"[-_.]?\d+(\.\d+)?[bmk]\b|-[a-z]$", re.IGNORECASE)

Exchange = tuple[tuple[Message, ...], str]
"""A conversation and the answer to it."""


class Word(Struct, frozen=True, gc=False):
    """What the judge said about one answer."""

    unsafe: bool | None
    """None where it could not be judged."""
    refusal: bool | None = None
    """None where its grammar does not tell."""
    label: str = ""
    raw: str = ""
    """Its own text."""


class Independence(Struct, frozen=True):
    """How the judge stands to the guard that labelled the pairs."""

    same_judge: bool
    """Its weights are that guard's, or cannot be told from them."""
    same_family: bool


class AnswerJudge:
    """Asks a guard. ``strict``: controversial counts as unsafe."""

    def __init__(self, guard: Guard, *, strict: bool) -> None:
        self.guard_id = guard.guard_id
        self.detector = f"{guard.model} ({guard.template})"
        self._guard = guard
        self._strict = strict

    async def words(self, exchanges: Sequence[Exchange]) -> list[Word]:
        """One word for each exchange, in order. An empty answer is safe and is not asked about.

        Raises:
            UnavailableError, SlowDownError: the judge's server as a whole is away.
        """
        asked = [at for at, (_, answer) in enumerate(exchanges) if answer.strip()]
        found = [Word(unsafe=False, label="empty")] * len(exchanges)
        requests = [GuardRequest(Role.RESPONSE, exchanges[at][0], exchanges[at][1]) for at in asked]
        for at, judgement in zip(asked, await self._guard.assess(requests), strict=True):
            found[at] = self._read(judgement)
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        await self._guard.aclose()

    def _read(self, judgement: Judgement) -> Word:
        if isinstance(judgement, GuardFailure):
            return Word(unsafe=None, label=judgement.reason, raw=judgement.detail)
        unsafe: bool | None = judgement.label is Label.UNSAFE
        if judgement.label is Label.UNPARSEABLE:
            unsafe = None
        elif judgement.label is Label.CONTROVERSIAL:
            unsafe = self._strict
        return Word(unsafe, judgement.refusal, judgement.label.value, judgement.raw)


def make_judge(settings: Settings, clock: Clock | None = None) -> AnswerJudge | None:
    """The judge of ``evaluation.judge``; None where none is configured. Raises ConfigurationError (its grammar)."""
    from sentinel.guards.client import GuardOptions, HttpGuard

    judge = settings.evaluation.judge
    if judge.base_url is None:
        return None
    options = GuardOptions(
        base_url=judge.base_url,
        model=judge.name,
        weights=judge.weights,
        api_key=judge.api_key.get_secret_value() if judge.api_key else None,
        max_batch=judge.batch_size,
        max_in_flight=judge.concurrency,
        total_timeout=judge.timeout_s,
    )
    guard = HttpGuard(options, load_grammar(judge.grammar), clock=clock)
    return AnswerJudge(guard, strict=settings.policy.strict)


def data_guard_id(settings: Settings) -> str:
    """Identity of the guard that labels traffic, without asking it."""
    from sentinel.clock import SystemClock
    from sentinel.guards.configured import configured_guard

    return configured_guard(settings, SystemClock()).guard_id


def independence(settings: Settings) -> Independence:
    """Whether judge and data guard can be told apart; with unknown weights they are compared by name."""
    judge, guard = settings.evaluation.judge, settings.guard
    if judge.weights and guard.weights:
        same = judge.weights == guard.weights
    else:
        same = judge.name == guard.name
    one, other = _family(judge.family or judge.name), _family(guard.name)
    alike = one == other or one.startswith(f"{other}-") or other.startswith(f"{one}-")
    return Independence(same, same or alike)


def _family(name: str) -> str:
    return _SIZE.sub("", name.rsplit("/", 1)[-1]).casefold()
