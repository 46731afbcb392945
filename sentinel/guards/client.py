"""A guard model behind an OpenAI-compatible server (vLLM): batches, retries, isolation, windows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeVar

import orjson
from msgspec import Struct

from sentinel.backoff import RetryBudget, full_jitter
from sentinel.clock import Clock, SystemClock
from sentinel.errors import GuardOutputError, PoisonError, SlowDownError, UnavailableError
from sentinel.events import Message
from sentinel.guards.base import GuardFailure, GuardGrammar, GuardRequest, Judgement
from sentinel.guards.observer import Endpoint, Observer, Unobserved, outcome_of
from sentinel.guards.turns import Turns, each
from sentinel.guards.windows import WindowSize, fits, lengths_of, windows, worst
from sentinel.guards.wire import PathMissingError, Reply, TimedOutError, Wire, encoded
from sentinel.ids import guard_id
from sentinel.verdicts import Assessment, Label, Role

PROBE: Final = GuardRequest(Role.PROMPT, (Message("user", "What is the capital of France?"),))
"""A text that every guard can read; its verdict does not matter, only that there is one."""

EVENT_ATTEMPTS: Final = 3
"""Failures of one text alone, while the probe succeeds, before it is given up as ``guard_error``."""

T = TypeVar("T")


class GuardOptions(Struct, frozen=True, kw_only=True):
    """How a guard server is called; durations in seconds."""

    base_url: str
    model: str
    weights: str = ""
    """Revision or hash of the weights, part of the guard's identity."""
    api_key: str | None = None
    mode: Literal["auto", "batch", "single"] = "auto"
    """``auto`` asks the server once whether it has the batch endpoint."""
    max_batch: int = 64
    """Conversations in one request."""
    max_batch_chars: int = 1_000_000
    """Characters of judged text and context in one request; one text that is longer goes alone."""
    max_in_flight: int = 256
    """Requests at the server at once; in single mode, this many conversations."""
    connect_timeout: float = 5.0
    total_timeout: float = 60.0
    probe_timeout: float = 10.0
    attempts: int = 3
    """Tries of one batch before its texts are asked one by one."""
    retry_base: float = 0.2
    retry_cap: float = 5.0
    patience: float = 60.0
    """How long calls wait for a server that asks for less before `SlowDownError` reaches the caller."""
    max_response_bytes: int = 8 << 20
    windows: WindowSize = WindowSize()


@dataclass(slots=True)
class GuardStats:
    """What the client did since it was made; only ever growing."""

    calls: int = 0
    """HTTP requests sent."""
    texts: int = 0
    """Texts judged or given up."""
    retries: int = 0
    slow_downs: int = 0
    isolated: int = 0
    """Texts that were asked one by one after their batch had failed."""
    failures: int = 0
    """Texts given up as ``guard_error``."""
    windowed: int = 0
    """Texts that had to be cut."""
    unparseable: int = 0
    probes: int = 0


class HttpGuard:
    """A `Guard` over HTTP. One instance serves one event loop; `assess` may be called concurrently."""

    def __init__(
        self,
        options: GuardOptions,
        grammar: GuardGrammar,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._options = options
        self._grammar = grammar
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._observer: Observer = observer or Unobserved()
        self._wire = Wire(
            options.base_url,
            options.model,
            grammar.parameters,
            api_key=options.api_key,
            connect_s=options.connect_timeout,
            total_s=options.total_timeout,
            max_response_bytes=options.max_response_bytes,
            clock=self._clock,
        )
        self.model = options.model
        self.template = f"{grammar.name}/{grammar.template}"
        sampling = orjson.dumps(dict(grammar.parameters), option=orjson.OPT_SORT_KEYS).decode()
        self.guard_id = guard_id(options.model, options.weights, self.template, sampling)
        self.stats = GuardStats()
        self._batched: bool | None = None if options.mode == "auto" else options.mode == "batch"
        self._start_lock = asyncio.Lock()
        self._start_failure = (-1.0, "")
        self._probe_lock = asyncio.Lock()
        self._probed_at = -1.0
        self._probe_result = False
        self._budget = RetryBudget()
        self._turns = Turns(
            options.max_in_flight,
            base_s=options.retry_base,
            cap_s=options.retry_cap,
            patience_s=options.patience,
            clock=self._clock,
            rng=self._rng,
        )

    @property
    def batched(self) -> bool | None:
        """Whether the batch endpoint is used; None until that is known."""
        return self._batched

    async def start(self) -> None:
        """Find out once how the server can be asked (`assess` does it too).

        Raises:
            UnavailableError: neither endpoint judges a probe text.
            SlowDownError: the server asks for less.
        """
        asked_at = self._clock.monotonic()
        async with self._start_lock:
            if self._batched is not None:
                return
            failed_at, failure = self._start_failure
            if failed_at > asked_at:
                # Else every waiting batch would find out by itself, one time limit after the other.
                raise UnavailableError(failure)
            try:
                self._batched = await self._has_batches()
            except (UnavailableError, SlowDownError) as error:
                self._start_failure = (self._clock.monotonic(), str(error))
                raise

    async def _has_batches(self) -> bool:
        conversation = encoded(self._grammar.conversation(PROBE))
        for attempt in range(self._options.attempts):
            last = attempt + 1 == self._options.attempts
            try:
                await self._exchange("batch", 1, partial(self._wire.batch, b"[" + conversation + b"]", 1))
            except (PathMissingError, PoisonError):
                break
            except (UnavailableError, GuardOutputError) as error:
                # A server that hangs takes as long again.
                if isinstance(error, TimedOutError) or (last and isinstance(error, UnavailableError)):
                    raise
                await self._back_off(attempt, error)
            else:
                return True
        # A gateway may answer an unknown path with 404, with 400 or with a page; one answer from the
        # ordinary endpoint proves that it is the path that is missing and not the model.
        try:
            await self._exchange("single", 1, partial(self._wire.single, conversation))
        except (PoisonError, GuardOutputError) as error:
            raise UnavailableError(f"the guard cannot judge a probe text: {error}") from error
        return False

    async def aclose(self) -> None:
        """Close connections; calls in flight are the caller's to end first."""
        await self._wire.aclose()

    async def probe(self) -> bool:
        """Whether a harmless text gets a readable verdict; calls at the same time share one answer."""
        asked_at = self._clock.monotonic()
        async with self._probe_lock:
            if self._probed_at <= asked_at:
                started = self._clock.monotonic()
                self._probe_result = await self._probe_now()
                self._probed_at = started
            return self._probe_result

    async def _probe_now(self) -> bool:
        # Outside the in-flight limit, since behind hanging calls the probe would hang as well; but not before the
        # time that the server named.
        if self._turns.wait_s > self._options.probe_timeout:
            return False
        await asyncio.sleep(self._turns.wait_s)
        conversation = encoded(self._grammar.conversation(PROBE))
        for attempt in range(EVENT_ATTEMPTS):
            if attempt:
                await asyncio.sleep(full_jitter(attempt, self._options.retry_base, 1.0, self._rng))
            self.stats.probes += 1
            self.stats.calls += 1
            try:
                reply = await self._wire.single(conversation, self._options.probe_timeout)
            except SlowDownError as error:
                self.stats.slow_downs += 1
                self._turns.hold_off(error.retry_after)
                return False
            except TimedOutError:
                return False
            except (UnavailableError, GuardOutputError, PoisonError):
                continue
            if self._read(PROBE, reply).label is not Label.UNPARSEABLE:
                return True
        return False

    async def assess(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        """Judge ``requests``; the result has the same length and order.

        Cancelling it closes its connections and leaves no task behind.

        Raises:
            UnavailableError: the guard as a whole is away, a probe text fails too.
            SlowDownError: it asked for less for longer than ``patience``.
        """
        if not requests:
            return []
        if self._batched is None:
            await self.start()
        size = self._options.windows
        # One look at the lengths: a text and its context that are shorter than either limit need no second one.
        short = min(size.text, size.context)
        lengths = lengths_of(requests)
        if max(lengths) <= short or all(fits(request, size) for request in requests):
            judged = await self._judge(requests, lengths)
        else:
            judged = await self._judge_cut(requests, size)
        self.stats.texts += len(requests)
        for judgement in judged:
            if isinstance(judgement, GuardFailure):
                self.stats.failures += 1
            elif judgement.label is Label.UNPARSEABLE:
                self.stats.unparseable += 1
        return judged

    async def _judge_cut(self, requests: Sequence[GuardRequest], size: WindowSize) -> list[Judgement]:
        cuts = [windows(request, size) for request in requests]
        self.stats.windowed += sum(len(pieces) > 1 for pieces in cuts)
        requests = [piece for pieces in cuts for piece in pieces]
        judged = iter(await self._judge(requests, lengths_of(requests)))
        return [worst([next(judged) for _ in pieces]) for pieces in cuts]

    async def _judge(self, requests: Sequence[GuardRequest], lengths: Sequence[int]) -> list[Judgement]:
        if not self._batched:
            return await self._one_by_one(requests)
        if len(requests) <= self._options.max_batch and sum(lengths) <= self._options.max_batch_chars:
            return await self._judge_batch(requests)
        batches = list(self._batches(requests, lengths))
        results = await each(batches, self._judge_batch, self._options.max_in_flight)
        return [judgement for result in results for judgement in result]

    def _batches(
        self, requests: Sequence[GuardRequest], lengths: Sequence[int]
    ) -> Iterator[Sequence[GuardRequest]]:
        first = chars = 0
        for index, length in enumerate(lengths):
            full = index - first >= self._options.max_batch or chars + length > self._options.max_batch_chars
            if full and index > first:
                yield requests[first:index]
                first, chars = index, 0
            chars += length
        yield requests[first:] if first else requests

    async def _judge_batch(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        conversation = self._grammar.conversation
        # Only the bytes are kept: freeing a batch's turns after its answer, when they have left the processor's cache,
        # took 5 us an event (`python -m benchmarks.path --only all_tables` under a sampling profiler).
        messages = encoded([conversation(request) for request in requests])
        detail = ""
        for attempt in range(self._options.attempts):
            try:
                call = partial(self._wire.batch, messages, len(requests))
                replies = await self._exchange("batch", len(requests), call)
            except PathMissingError:
                # The server was replaced by one without the endpoint: ask again what it has.
                if self._options.mode == "auto":
                    self._batched = None
                raise
            except (PoisonError, TimedOutError) as error:
                # Asking a server again that hangs costs as long again before the outage is seen.
                detail = str(error)
                break
            except (UnavailableError, GuardOutputError) as error:
                detail = str(error)
                if attempt + 1 == self._options.attempts or not self._budget.spend():
                    break
                await self._back_off(attempt, error)
            else:
                self._budget.earn()
                parse = self._grammar.parse
                return [
                    parse(request.role, reply.text, reply.logprobs)
                    for request, reply in zip(requests, replies, strict=True)
                ]
        # One bad conversation fails the whole request, so only single calls can tell which. A guard that is
        # away is not asked once per text: the probe comes first.
        if not await self.probe():
            raise UnavailableError(f"the guard failed a batch and a probe text: {detail}")
        self.stats.isolated += len(requests)
        return await self._one_by_one(requests)

    async def _one_by_one(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        if len(requests) == 1:
            return [await self._judge_single(requests[0])]
        return await each(requests, self._judge_single, self._options.max_in_flight)

    async def _judge_single(self, request: GuardRequest) -> Judgement:
        size = self._options.windows
        pieces = [request]
        detail = ""
        for attempt in range(EVENT_ATTEMPTS):
            try:
                judged: list[Judgement] = []
                for piece in pieces:
                    call = partial(self._wire.single, encoded(self._grammar.conversation(piece)))
                    reply = await self._exchange("single", 1, call)
                    judged.append(self._read(piece, reply))
            except PoisonError as error:
                # Most often "longer than the context": the server counts tokens, windows count characters.
                detail = error.detail
                size = size.halved()
                pieces = windows(request, size)
            except (UnavailableError, GuardOutputError) as error:
                detail = str(error)
                if attempt + 1 == EVENT_ATTEMPTS:
                    break
                # A text has its three tries even without a budget, but each after proof that the guard works: else
                # every text in flight would ask a guard three times that is away, or wait for three time limits.
                wary = isinstance(error, TimedOutError) or not self._budget.spend()
                if wary and not await self.probe():
                    raise UnavailableError(f"the guard failed a text and a probe text: {detail}") from error
                await self._back_off(attempt, error)
            else:
                self._budget.earn()
                self.stats.windowed += len(pieces) > 1
                return worst(judged)
        if await self.probe():
            return GuardFailure("guard_error", detail)
        raise UnavailableError(f"the guard failed a text and a probe text: {detail}")

    async def _exchange(self, endpoint: Endpoint, texts: int, call: Callable[[], Awaitable[T]]) -> T:
        """One HTTP exchange, after the wait that the server asked for, within the in-flight limit."""
        turn = self._turns.turn()
        while True:
            async with turn:
                self.stats.calls += 1
                began = self._clock.monotonic()
                try:
                    answer = await call()
                except (SlowDownError, PoisonError, UnavailableError, GuardOutputError) as error:
                    took = self._clock.monotonic() - began
                    self._observer.request(endpoint, outcome_of(error), took, texts)
                    if not isinstance(error, SlowDownError):
                        raise
                    self.stats.slow_downs += 1
                    turn.refused(error.retry_after)
                    self._observer.retried("throttled")
                else:
                    self._observer.request(endpoint, "ok", self._clock.monotonic() - began, texts)
                    return answer

    async def _back_off(self, attempt: int, error: Exception) -> None:
        self.stats.retries += 1
        self._observer.retried(outcome_of(error))
        options = self._options
        await asyncio.sleep(full_jitter(attempt, options.retry_base, options.retry_cap, self._rng))

    def _read(self, request: GuardRequest, reply: Reply) -> Assessment:
        return self._grammar.parse(request.role, reply.text, reply.logprobs)
