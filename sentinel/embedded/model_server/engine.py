"""The thread that runs the model: rows of one adapter are decoded together, and new ones join between steps.

The event loop submits sequences and receives pieces; everything of torch happens in the thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sentinel.embedded.model_server.adapters import AdaptedModel, Adapter
from sentinel.embedded.model_server.batch import Batch
from sentinel.embedded.model_server.errors import RequestError
from sentinel.embedded.model_server.sampling import choose, describe
from sentinel.embedded.model_server.sequence import Piece, Sequence_

_QUANTUM: Final = 8
"""Steps before rows of another adapter have their turn: changing adapters costs about one step."""
_PREFILL_TOKENS: Final = 4096
"""Prompt tokens, padding included, that are read between two steps at most; running rows wait meanwhile."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Group:
    """The sequences of one adapter."""

    adapter: Adapter | None
    waiting: deque[Sequence_] = field(default_factory=deque)
    rows: list[Sequence_] = field(default_factory=list)
    batch: Batch | None = None


@dataclass(slots=True)
class Counts:
    """What the engine did since it started; read by the metrics."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    running: int = 0
    waiting: int = 0
    largest_batch: int = 0


class Engine:
    """One model's thread. Made and used in one event loop; ``start`` and ``stop`` once each."""

    def __init__(self, *, max_batch: int = 64, on_failure: Callable[[], None] = lambda: None) -> None:
        """``on_failure`` is called in the event loop when the thread has died."""
        self.counts = Counts()
        self.failure: str | None = None
        self._max_batch = max_batch
        self._on_failure = on_failure
        self._condition = threading.Condition()
        self._incoming: list[Sequence_] = []
        self._commands: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._stopping = False
        self._groups: dict[str | None, _Group] = {}
        self._current: _Group | None = None
        self._turn = 0
        self._outbox: list[Piece] = []
        self._thread: threading.Thread | None = None
        self._adapted: AdaptedModel
        self._loop: asyncio.AbstractEventLoop

    def start(self, adapted: AdaptedModel) -> None:
        """Begin to serve; call in the event loop that receives the pieces."""
        self._adapted = adapted
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread after its step; sequences that are not over get an error."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def submit(self, sequences: Sequence[Sequence_]) -> None:
        """Queue them. Raises RequestError (503) when the model's thread is gone."""
        with self._condition:
            if self.failure is not None or self._stopping:
                raise RequestError("the model is not running", status=503)
            for sequence in sequences:
                sequence.deliver = self._outbox.append
                if sequence.adapter is not None:
                    sequence.adapter.in_use += 1
            self._incoming.extend(sequences)
            self._condition.notify()

    async def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the model's thread between two steps. Raises what it raises, or RequestError (503)."""
        future: Future[T] = Future()
        with self._condition:
            if self.failure is not None or self._stopping:
                raise RequestError("the model is not running", status=503)
            self._commands.append((future, work))
            self._condition.notify()
        return await asyncio.wrap_future(future)

    # -- the model's thread

    def _run(self) -> None:
        import torch

        why = "the server is stopping"
        try:
            with torch.inference_mode():
                while self._take():
                    self._step()
                    self._post()
        except BaseException as error:  # noqa: BLE001  # it ends the thread: whoever waits must not wait for ever
            why = f"the model failed: {type(error).__name__}: {error}"
            self.failure = why
        self._end(why)

    def _take(self) -> bool:
        """Wait for something to do; whether to go on."""
        with self._condition:
            while not (self._stopping or self._incoming or self._commands or self._busy()):
                self._condition.wait()
            if self._stopping:
                return False
            incoming, self._incoming = self._incoming, []
            commands, self._commands = self._commands, []
        for sequence in incoming:
            key = None if sequence.adapter is None else sequence.adapter.key
            self._groups.setdefault(key, _Group(sequence.adapter)).waiting.append(sequence)
        for future, work in commands:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  # the caller decides; here it only changes threads
                future.set_exception(error)
        return True

    def _busy(self) -> bool:
        return any(group.waiting or group.rows for group in self._groups.values())

    def _step(self) -> None:
        """Let the group whose turn it is read new prompts, and append one token to each of its rows."""
        for group in self._groups.values():
            self._drop_cancelled(group)
        self._groups = {key: group for key, group in self._groups.items() if group.waiting or group.rows}
        chosen = self._choose()
        if chosen is None:
            self._count()
            return
        self._adapted.activate(chosen.adapter)
        if chosen.rows and chosen.batch is not None:
            tokens = [sequence.tokens[-1] for sequence in chosen.rows]
            logits = chosen.batch.step(self._adapted.model, tokens)
            self._extend(chosen, chosen.batch, logits, chosen.rows)
        self._admit(chosen)
        self.counts.steps += 1
        self._count()

    def _choose(self) -> _Group | None:
        """The current group for a quantum, then the next one in turn."""
        groups = list(self._groups.values())
        if not groups:
            self._current = None
            return None
        if self._current in groups and (self._turn < _QUANTUM or len(groups) == 1):
            self._turn += 1
            return self._current
        place = groups.index(self._current) + 1 if self._current in groups else 0
        self._current, self._turn = groups[place % len(groups)], 1
        return self._current

    def _drop_cancelled(self, group: _Group) -> None:
        gone = [sequence for sequence in (*group.waiting, *group.rows) if sequence.cancelled]
        if not gone:
            return
        group.waiting = deque(sequence for sequence in group.waiting if not sequence.cancelled)
        self._keep(group, [number for number, sequence in enumerate(group.rows) if not sequence.cancelled])
        for sequence in gone:
            sequence.end("abort")

    def _admit(self, group: _Group) -> None:
        """Read prompts that fit beside the running rows, the oldest first."""
        fresh: list[Sequence_] = []
        width = 0
        while group.waiting and len(group.rows) + len(fresh) < self._max_batch:
            wider = max(width, len(group.waiting[0].prompt))
            if fresh and wider * (len(fresh) + 1) > _PREFILL_TOKENS:
                break
            width = wider
            fresh.append(group.waiting.popleft())
        if not fresh:
            return
        every = any(sequence.prompt_logprobs is not None for sequence in fresh)
        for sequence in fresh:
            sequence.prepare()
        batch, logits = Batch.prefill(
            self._adapted.model, [sequence.prompt for sequence in fresh], every_logit=every
        )
        self.counts.prompt_tokens += sum(len(sequence.prompt) for sequence in fresh)
        if every:
            for number, sequence in enumerate(fresh):
                _describe_prompt(sequence, logits[number])
        rows = self._extend(None, batch, logits[:, -1], fresh)
        if group.batch is None:
            group.batch = batch if rows else None
        elif rows:
            group.batch.join(batch)
        group.rows = [*group.rows, *rows]

    def _extend(
        self, group: _Group | None, batch: Batch, logits: Any, rows: list[Sequence_]
    ) -> list[Sequence_]:
        """Draw a token for each row; the rows that are not over stay in ``batch`` and are returned."""
        tokens = choose(logits, [sequence.row for sequence in rows])
        told = describe(logits, tokens, [sequence.sampling.logprobs for sequence in rows])
        left = []
        for number, sequence in enumerate(rows):
            if sequence.max_tokens == 0:
                sequence.end("length")
                continue
            self.counts.generated_tokens += 1
            if not sequence.add(tokens[number], told[number]):
                left.append(number)
        if group is not None:
            self._keep(group, left)
        elif 0 < len(left) < len(rows):
            batch.keep(left)
        return [rows[number] for number in left]

    @staticmethod
    def _keep(group: _Group, left: Sequence[int]) -> None:
        if len(left) == len(group.rows):
            return
        if not left:
            group.batch = None
        elif group.batch is not None:
            group.batch.keep(left)
        group.rows = [group.rows[number] for number in left]

    def _count(self) -> None:
        groups = self._groups.values()
        self.counts.running = sum(len(group.rows) for group in groups)
        self.counts.waiting = sum(len(group.waiting) for group in groups)
        self.counts.largest_batch = max(self.counts.largest_batch, *(len(group.rows) for group in groups), 0)

    def _post(self) -> None:
        if self._outbox:
            pieces = list(self._outbox)
            self._outbox.clear()
            self._loop.call_soon_threadsafe(self._receive, pieces)

    def _end(self, why: str) -> None:
        with self._condition:
            self._stopping = True
            left = list(self._incoming)
            commands = list(self._commands)
        for group in self._groups.values():
            left += [*group.waiting, *group.rows]
        for sequence in left:
            sequence.fail(why)
        for future, _ in commands:
            if future.set_running_or_notify_cancel():
                future.set_exception(RequestError(why, status=503))
        self._post()
        if self.failure is not None:
            self._loop.call_soon_threadsafe(self._on_failure)

    # -- the event loop

    @staticmethod
    def _receive(pieces: list[Piece]) -> None:
        for piece in pieces:
            sequence = piece.sequence
            if (piece.finish is not None or piece.error is not None) and sequence.adapter is not None:
                sequence.adapter.in_use -= 1
                sequence.adapter.released()
            sequence.receive(piece)


def _describe_prompt(sequence: Sequence_, logits: Any) -> None:
    """Log-probabilities of the prompt's tokens; the first has none. ``logits``: columns by vocabulary."""
    if sequence.prompt_logprobs is None:
        return
    size = len(sequence.prompt)
    told = describe(logits[-size:-1], sequence.prompt[1:], [sequence.prompt_logprobs] * (size - 1))
    sequence.prompt_told = [None, *told]
