"""Who is asked for a second answer: the weights that gave the first one, while they are loaded."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from sentinel.clock import Clock
from sentinel.errors import SlowDownError, UnavailableError
from sentinel.events import Message
from sentinel.findings import ClaimedFinding
from sentinel.llm import ModelAnswer, ModelClient
from sentinel.served import ServedModel

NAMES_FRESH_S = 10.0
"""Age in seconds up to which a replica's list of loaded names is believed; adapters come and go by promotion."""


PROBE_S = 10.0
"""Seconds in which a working server lists its models."""


class _Replica:
    """One API-server process and what it had loaded when it was last asked."""

    def __init__(self, client: ModelClient) -> None:
        self.client = client
        self.names: dict[str, str | None] = {}
        self.asked_at = float("-inf")


class Answered(Struct, frozen=True):
    """An answer and the name under which the answering weights were asked."""

    answer: ModelAnswer
    generator: str


class Generators:
    """The replicas of every served model. One instance serves one event loop."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        make_client: Callable[[ServedModel, str], ModelClient],
        clock: Clock,
    ) -> None:
        self._models = {model.name: model for model in models}
        self._clock = clock
        self._replicas = {
            model.name: [_Replica(make_client(model, url)) for url in model.replicas] for model in models
        }

    @property
    def askable(self) -> tuple[str, ...]:
        """Served models that have a replica."""
        return tuple(name for name, replicas in self._replicas.items() if replicas)

    @property
    def unaskable(self) -> tuple[str, ...]:
        """Served models without one: their findings are not re-prompted."""
        return tuple(name for name, replicas in self._replicas.items() if not replicas)

    async def prepare(self) -> None:
        """Load the client library in a thread: half a second of imports would hold up the events meanwhile."""
        if self.askable:
            await asyncio.to_thread(importlib.import_module, "openai.types.chat")

    async def ask(
        self, finding: ClaimedFinding, messages: Sequence[Message], instruction: str, attempt: int
    ) -> Answered:
        """Ask one replica after the other, in random order, until one answers.

        Raises:
            PoisonError: a replica refuses these messages; the others would too.
            SlowDownError, UnavailableError: none can answer now.
        """
        replicas = list(self._replicas[finding.served_model])
        random.shuffle(replicas)
        away: SlowDownError | UnavailableError = UnavailableError(f"{finding.served_model} has no replica")
        for replica in replicas:
            try:
                generator = await self._generator(replica, finding)
                answer = await replica.client.answer(generator, messages, instruction, attempt)
            except (SlowDownError, UnavailableError) as error:
                replica.asked_at = float("-inf")  # the adapter may have been unloaded
                away = error
            else:
                return Answered(answer, generator)
        raise away

    async def reachable(self, served_model: str) -> bool:
        """Whether a replica lists its models: then a failure was about one request, not about the server."""
        for replica in self._replicas[served_model]:
            try:
                async with asyncio.timeout(PROBE_S):
                    await replica.client.models()
            except (SlowDownError, UnavailableError, TimeoutError):
                continue
            return True
        return False

    async def aclose(self) -> None:
        """Close every connection."""
        for replicas in self._replicas.values():
            for replica in replicas:
                await replica.client.aclose()

    async def _generator(self, replica: _Replica, finding: ClaimedFinding) -> str:
        """The adapter that answered first, else the incumbent, else the base, whichever is loaded."""
        if self._clock.monotonic() - replica.asked_at > NAMES_FRESH_S:
            replica.names = await replica.client.models()
            replica.asked_at = self._clock.monotonic()
        for name in (finding.served_by, finding.incumbent):
            if name is not None and name in replica.names:
                return name
        bases = [name for name, parent in replica.names.items() if parent is None]
        public_name = self._models[finding.served_model].public_name
        if public_name in bases:
            return public_name
        if not bases:
            raise UnavailableError("the replica lists no base model")
        return bases[0]
