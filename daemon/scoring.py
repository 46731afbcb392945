"""Scoring: events gather into micro-batches, each batch is one task and one call of the guard.

Work is counted in events: `in_flight` is what the guard holds now. While the guard is away the batches wait
for the breaker, intake stops by itself, and nothing is lost or called safe.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from sentinel import logs
from sentinel.breaker import Breaker, BreakerState
from sentinel.errors import FatalError, SlowDownError, UnavailableError
from sentinel.events import PromptEvent
from sentinel.guards.base import Guard, GuardFailure, GuardRequest, Judgement
from sentinel.interactions import Interaction, Replay
from sentinel.outcomes import Outcome
from sentinel.verdicts import Assessment, Label, Policy, Role, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumers.tracker import Slot
    from sentinel.served import ServedModels

_log = logs.get("daemon.scoring")


class ScoringLimits(Struct, frozen=True, kw_only=True):
    """How events are gathered for the guard."""

    batch_size: int = 64
    """Texts of one call; an event is one or two."""
    linger_s: float = 0.005
    """How long an event waits for others of its batch."""
    in_flight: int = 512
    """Events at the guard."""
    check_prompts: bool = True
    per_key: bool = False
    """Events of one record key are scored one after the other, and recorded in that order."""


class Observer(Protocol):
    """What scoring reports; metrics implement it."""

    def in_flight(self, events: int) -> None: ...


class _Work(Struct, gc=False):
    slot: Slot
    event: PromptEvent
    probability: float
    served_model: str | None
    replay: Replay | None


class Scorer:
    """Turns events into interactions; `submit` never waits."""

    def __init__(
        self,
        guard: Guard,
        *,
        policy: Policy,
        served: ServedModels,
        sampling: Mapping[str, float],
        limits: ScoringLimits,
        breaker: Breaker,
        put: Callable[[Slot, Interaction], None],
        wake: Callable[[], None],
        observer: Observer,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._guard = guard
        self._policy = policy
        self._served = served
        self._sampling = tuple(sampling.items())
        self._probability = lru_cache(maxsize=4096)(self._look_up_probability)
        self._limits = limits
        self._breaker = breaker
        self._put = put
        self._wake = wake
        self._observer = observer
        self._draw = draw
        self._gathering: list[_Work] = []
        self._gathered_texts = 0
        self._linger: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._keys: dict[bytes, deque[_Work]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        self._failure: BaseException | None = None

    def room(self) -> int:
        """How many more events may come; 0 while the guard's breaker is not closed.

        Raises what ended a batch: events that it held never leave, so that no `submit` might come to say so.
        """
        self._raise_failure()
        if self._breaker.state is not BreakerState.CLOSED:
            return 0
        return self._limits.in_flight - self.in_flight

    def submit(self, slot: Slot, event: PromptEvent, replay: Replay | None = None) -> None:
        """Score one event and put the interaction, sooner or later."""
        self._raise_failure()
        probability = self._probability(event.source) if self._sampling else 1.0
        served_model = self._served.match(event.model)
        if served_model is not None and self._served.attributing:
            event = self._served.attributed(event, served_model)
        work = _Work(slot, event, probability, served_model, replay)
        if probability < 1.0 and self._draw() >= probability:
            self._put(slot, self._unscored(work, "unsampled"))
            return
        self.in_flight += 1
        self._idle.clear()
        key = slot.record.key
        if self._limits.per_key and key is not None:
            waiting = self._keys.get(key)
            if waiting is not None:
                waiting.append(work)
                return
            self._keys[key] = deque()
        self._gather(work)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is at the guard; False when time ran out."""
        self._dispatch()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        self._raise_failure()
        return True

    async def close(self) -> None:
        """Cancel what is under way; it is read again by the next owner."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- batches ---------------------------------------------------------------------------------------------

    def _gather(self, work: _Work) -> None:
        self._gathering.append(work)
        self._gathered_texts += 2 if self._limits.check_prompts else 1
        if self._gathered_texts >= self._limits.batch_size:
            self._dispatch()
        elif self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(self._limits.linger_s, self._dispatch)

    def _dispatch(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if not self._gathering:
            return
        batch, self._gathering, self._gathered_texts = self._gathering, [], 0
        task = asyncio.get_running_loop().create_task(self._score(batch), name="score")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        # Not only when a batch ends: while the guard is away none does.
        self._observer.in_flight(self.in_flight)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug must stop the service: a batch that vanished would hold its offsets back for ever.
            self._failure = error
            self._idle.set()
        self._observer.in_flight(self.in_flight)
        self._wake()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _score(self, batch: list[_Work]) -> None:
        requests, places = self._requests(batch)
        judgements = await self._assess(requests) if requests else []
        for work, (prompt, response) in zip(batch, places, strict=True):
            interaction = self._interaction(
                work,
                None if prompt is None else judgements[prompt],
                None if response is None else judgements[response],
            )
            self._put(work.slot, interaction)
        self.in_flight -= len(batch)
        if self._limits.per_key:
            self._release_keys(batch)
        if self.in_flight == 0:
            self._idle.set()

    def _release_keys(self, batch: Sequence[_Work]) -> None:
        for work in batch:
            key = work.slot.record.key
            if key is None:
                continue
            waiting = self._keys[key]
            if waiting:
                self._gather(waiting.popleft())
            else:
                del self._keys[key]

    def _requests(
        self, batch: Sequence[_Work]
    ) -> tuple[list[GuardRequest], list[tuple[int | None, int | None]]]:
        """The guard's questions, and for each event where its prompt's and its response's answer will stand."""
        requests: list[GuardRequest] = []
        places: list[tuple[int | None, int | None]] = []
        for work in batch:
            event = work.event
            prompt = response = None
            if self._limits.check_prompts and event.messages:
                prompt = len(requests)
                requests.append(GuardRequest(Role.PROMPT, event.messages, None))
            text = event.scanned_response
            if text and not text.isspace():
                response = len(requests)
                requests.append(GuardRequest(Role.RESPONSE, event.messages, text))
            places.append((prompt, response))
        return requests, places

    async def _assess(self, requests: Sequence[GuardRequest]) -> Sequence[Judgement]:
        """The guard's answers; waits for as long as the guard is away."""
        while True:
            await self._breaker.wait_closed()
            try:
                judgements = await self._guard.assess(requests)
            except (UnavailableError, SlowDownError) as error:
                self._breaker.record_failure(error)
            else:
                self._breaker.record_success()
                if len(judgements) != len(requests):
                    raise FatalError("the guard's answers do not match its questions one to one")
                return judgements

    # -- interactions ----------------------------------------------------------------------------------------

    def _interaction(self, work: _Work, prompt: Judgement | None, response: Judgement | None) -> Interaction:
        unsafe: bool | None = None
        reason = ""
        if response is None:
            reason = "empty_response"
        elif isinstance(response, GuardFailure):
            reason = response.reason
        else:
            unsafe = self._policy.is_unsafe(response)
            if unsafe is None:
                reason = "unparseable"
        # By position, as in `_verdict`: looking each keyword up among the fields takes as long as all the rest.
        return Interaction(
            work.event,
            Outcome.UNSCORED if unsafe is None else Outcome.STORED,
            reason,
            self._verdict(work.event, Role.PROMPT, prompt),
            self._verdict(work.event, Role.RESPONSE, response),
            _unscored_prompt(prompt, asked=self._limits.check_prompts),
            None,  # screening
            bool(unsafe),
            self._policy.version,
            work.served_model,
            work.replay,
            work.probability,
        )

    def _unscored(self, work: _Work, reason: str) -> Interaction:
        return Interaction(
            event=work.event,
            outcome=Outcome.UNSCORED,
            reason=reason,
            prompt_unscored=reason,
            policy_version=self._policy.version,
            served_model=work.served_model,
            replay=work.replay,
            sampling_probability=work.probability,
        )

    def _verdict(self, event: PromptEvent, role: Role, judgement: Judgement | None) -> Verdict | None:
        if not isinstance(judgement, Assessment):
            return None
        guard = self._guard
        return Verdict(
            event.event_id,
            role,
            0,  # attempt
            guard.guard_id,
            0,  # score run
            judgement,
            guard.model,
            guard.template,
            self._policy.version,
        )

    def _look_up_probability(self, source: str | None) -> float:
        """The first matching pattern's probability; 1 where none matches."""
        for pattern, probability in self._sampling:
            if fnmatchcase(source or "", pattern):
                return probability
        return 1.0


def _unscored_prompt(judgement: Judgement | None, *, asked: bool) -> str:
    if judgement is None:
        return "no_prompt" if asked else "not_asked"
    if isinstance(judgement, GuardFailure):
        return judgement.reason
    return "unparseable" if judgement.label is Label.UNPARSEABLE else ""
