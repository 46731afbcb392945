"""Every replica of a served model kept at the desired state: listed, loaded, probed, every ten seconds.

A replica is one API-server process, whose adapters are its own memory: one that restarted knows none, one
that was forgotten has an old set, and a name alone does not prove which weights answer. So nothing is trusted
but the replica's own list and its answers to recorded questions.

    read /v1/models ──> unload what is retired ──> load what is missing ──> probe ──> state
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from sentinel.clock import Clock, SystemClock
from sentinel.errors import UnavailableError
from sentinel.serving_desired import DesiredState, Probe, WantedAdapter
from sentinel.serving_replica import PROBE_TOKENS, RefusedError, ReplicaClient, ReplicaOptions

AGREEMENT: Final = 0.9
"""Share of recorded tokens that must come again; float rounding may move the rest."""


class ReplicaState(StrEnum):
    """What the last look at a replica found. Only an ``ok`` one may be given traffic for every desired adapter."""

    OK = "ok"
    LAGGING = "lagging"
    """An adapter was accepted but is not served yet, or has no recorded answers to prove it."""
    STALE = "stale"
    """An adapter is missing and cannot be loaded."""
    DOWN = "down"
    """No proper answer."""
    WRONG = "wrong"
    """An adapter answers with something else than was recorded."""


class Replica(Struct, frozen=True):
    """Where a replica is, and where it sees the adapters."""

    url: str
    remote_prefix: str | None = None
    """Folder on its host that holds the adapters' folders; None: the same paths as here."""

    def path_of(self, adapter: WantedAdapter) -> str:
        """The adapter's folder as the replica sees it."""
        if self.remote_prefix is None:
            return str(adapter.path)
        return str(Path(self.remote_prefix) / adapter.path.name)


class ReplicaReport(Struct, frozen=True, kw_only=True):
    """What was found and done at one replica."""

    replica: str
    state: ReplicaState
    detail: str = ""
    """Why, for people; no prompt or answer is in it."""
    proven: frozenset[str] = frozenset()
    """Desired adapters that answered as recorded."""
    served: frozenset[str] = frozenset()
    """Desired adapters that it lists."""
    wrong: frozenset[str] = frozenset()
    """Desired adapters that answered with something else."""
    bases: frozenset[str] = frozenset()
    """Names under which it serves weights without an adapter."""
    loaded: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()


class ServingMetrics(Protocol):
    """Where the findings go. Never blocks, never raises."""

    def replica_state(self, served_model: str, replica: str, state: ReplicaState) -> None:
        """After each look."""

    def adapter_loaded(self, served_model: str, replica: str, seconds: float) -> None:
        """After each successful load."""


class NoServingMetrics:
    """Counts nothing."""

    def replica_state(self, served_model: str, replica: str, state: ReplicaState) -> None:
        """Nothing."""

    def adapter_loaded(self, served_model: str, replica: str, seconds: float) -> None:
        """Nothing."""


class _Known:
    """What is remembered of a replica between two looks."""

    def __init__(self, replica: Replica, client: ReplicaClient) -> None:
        self.replica = replica
        self.client = client
        self.proven: dict[str, float] = {}
        """When each adapter last answered as recorded, on the monotonic clock."""
        self.unwanted_since: dict[str, float] = {}
        self.reload_at: dict[str, float] = {}
        """Earliest next reload of an adapter that answered wrongly."""


class _Look:
    """What one look at a replica has found so far."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.wrong: list[str] = []
        self.served: frozenset[str] = frozenset()
        self.bases: frozenset[str] = frozenset()


class Serving:
    """The replicas of one served model. `reconcile` may be called by several tasks; they take turns."""

    def __init__(
        self,
        served_model: str,
        replicas: Sequence[Replica],
        *,
        admin_token: str | None = None,
        options: ReplicaOptions | None = None,
        metrics: ServingMetrics | None = None,
        clock: Clock | None = None,
        probe_interval_s: float = 60.0,
        unload_grace_s: float = 30.0,
    ) -> None:
        """``probe_interval_s``: a proof's age at which it is made again; a load always needs a new one.
        ``unload_grace_s``: how long a retired adapter stays, for requests that were routed to it before.
        """
        self.served_model = served_model
        self.reports: Mapping[str, ReplicaReport] = {}
        """The last report of each replica, by its URL."""
        self._metrics = metrics or NoServingMetrics()
        self._clock = clock or SystemClock()
        self._probe_interval_s = probe_interval_s
        self._unload_grace_s = unload_grace_s
        self._lock = asyncio.Lock()
        self._known = [
            _Known(
                replica,
                ReplicaClient(replica.url, admin_token=admin_token, options=options or ReplicaOptions()),
            )
            for replica in replicas
        ]

    async def aclose(self) -> None:
        """Close the connections."""
        for known in self._known:
            await known.client.aclose()

    async def reconcile(self, desired: DesiredState) -> tuple[ReplicaReport, ...]:
        """Bring all replicas to ``desired`` as far as they let it; one report each. Raises nothing of theirs."""
        async with self._lock:
            reports = await asyncio.gather(*(self._bring(known, desired) for known in self._known))
        for report in reports:
            self._metrics.replica_state(self.served_model, report.replica, report.state)
        self.reports = {report.replica: report for report in reports}
        return tuple(reports)

    async def keep(
        self,
        read: Callable[[], Awaitable[DesiredState]],
        *,
        interval_s: float = 10.0,
        stopping: asyncio.Event,
    ) -> None:
        """Reconcile until ``stopping`` is set. What ``read`` raises ends it; the owner decides."""
        while not stopping.is_set():
            await self.reconcile(await read())
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), interval_s)

    # -- one replica

    async def _bring(self, known: _Known, desired: DesiredState) -> ReplicaReport:
        url = known.replica.url
        look = _Look()
        try:
            state, detail = await self._look(known, desired, look)
        except (UnavailableError, RefusedError) as error:
            # Nothing is known of it any more: when it is back, everything is proven anew.
            known.proven.clear()
            look.wrong.clear()
            state, detail = ReplicaState.DOWN, str(error)
        wanted = {adapter.name for adapter in desired.adapters}
        return ReplicaReport(
            replica=url,
            state=state,
            detail=detail,
            proven=frozenset(known.proven.keys() & wanted),
            served=look.served,
            wrong=frozenset(look.wrong),
            bases=look.bases,
            loaded=tuple(look.loaded),
            unloaded=tuple(look.unloaded),
        )

    async def _look(self, known: _Known, desired: DesiredState, look: _Look) -> tuple[ReplicaState, str]:
        loaded, wrong = look.loaded, look.wrong
        models = await known.client.models()
        look.bases = frozenset(name for name, parent in models.items() if parent is None)
        for name in known.proven.keys() - models.keys():
            del known.proven[name]
        look.unloaded += await self._unload_retired(known, desired, models)
        refused = {}
        for adapter in desired.adapters:
            if models.get(adapter.name) is None:
                reason = await self._load(known, adapter)
                if reason is not None:
                    refused[adapter.name] = reason
                else:
                    loaded.append(adapter.name)
        if loaded or refused:
            models = await known.client.models()
            # Two processes may bring it about at once: who comes second is told that it is loaded already.
            refused = {name: reason for name, reason in refused.items() if models.get(name) is None}
        served = [adapter for adapter in desired.adapters if models.get(adapter.name) is not None]
        look.served = frozenset(adapter.name for adapter in served)
        unproven = []
        for adapter in served:
            answers = await self._prove(known, adapter, _base_of(models, adapter.name), loaded)
            if answers is False:
                wrong.append(adapter.name)
            elif answers is None:
                unproven.append(adapter.name)
        if wrong:
            return ReplicaState.WRONG, f"{', '.join(wrong)} answers with something else than was recorded"
        if refused:
            return ReplicaState.STALE, "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        late = [adapter.name for adapter in desired.adapters if adapter not in served]
        if late:
            return ReplicaState.LAGGING, f"{', '.join(late)} was accepted and is not listed yet"
        if unproven:
            return ReplicaState.LAGGING, f"{', '.join(unproven)} has not answered a recorded question"
        return ReplicaState.OK, ""

    async def _load(self, known: _Known, adapter: WantedAdapter) -> str | None:
        """Load it; the reason if the replica refuses."""
        known.proven.pop(adapter.name, None)
        started = self._clock.monotonic()
        try:
            await known.client.load(adapter.name, known.replica.path_of(adapter))
        except RefusedError as error:
            return error.reason
        self._metrics.adapter_loaded(self.served_model, known.replica.url, self._clock.monotonic() - started)
        return None

    async def _unload_retired(
        self, known: _Known, desired: DesiredState, models: Mapping[str, str | None]
    ) -> list[str]:
        now = self._clock.monotonic()
        wanted = {adapter.name for adapter in desired.adapters}
        # A base is never ours to unload, whatever it is called.
        found = {name for name, parent in models.items() if parent is not None} & desired.retired - wanted
        known.unwanted_since = {name: known.unwanted_since.get(name, now) for name in found}
        due = [name for name, since in known.unwanted_since.items() if now - since >= self._unload_grace_s]
        gone = []
        for name in due:
            # Refused: somebody else unloaded it in between, which the next look sees.
            with suppress(RefusedError):
                await known.client.unload(name)
                gone.append(name)
        return gone

    async def _prove(
        self, known: _Known, adapter: WantedAdapter, base: str | None, loaded: Iterable[str]
    ) -> bool | None:
        """Whether it answers as recorded; None when nothing is recorded or it is not served after all."""
        if not adapter.probes:
            return None
        now = self._clock.monotonic()
        proven = known.proven.get(adapter.name)
        if proven is not None and now - proven < self._probe_interval_s:
            return True
        known.proven.pop(adapter.name, None)
        try:
            right = await self._answers_as_recorded(known.client, adapter, base)
            if not right and adapter.name not in loaded and known.reload_at.get(adapter.name, now) <= now:
                # Other weights may have got under this name; loading it again is all that can be done here.
                known.reload_at[adapter.name] = now + self._probe_interval_s
                await known.client.unload(adapter.name)
                await known.client.load(adapter.name, known.replica.path_of(adapter))
                right = await self._answers_as_recorded(known.client, adapter, base)
        except RefusedError:
            return None
        if right:
            known.proven[adapter.name] = now
        return right

    @staticmethod
    async def _answers_as_recorded(client: ReplicaClient, adapter: WantedAdapter, base: str | None) -> bool:
        # All at once: engines have been seen that keep adapter and base apart alone, and not within one batch.
        asked = [client.greedy(adapter.name, probe.question) for probe in adapter.probes]
        compared = [probe for probe in adapter.probes if probe.differs and base is not None]
        if base is not None:
            asked += [client.greedy(base, probe.question) for probe in compared]
        found = await asyncio.gather(*asked, return_exceptions=True)
        said: list[tuple[str, ...]] = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            said.append(one)
        answers = said[: len(adapter.probes)]
        if agreement(adapter.probes, answers) < AGREEMENT:
            return False
        by_question = dict(zip((probe.question for probe in adapter.probes), answers, strict=True))
        return all(
            by_question[probe.question] != other
            for probe, other in zip(compared, said[len(adapter.probes) :], strict=True)
        )


def _base_of(models: Mapping[str, str | None], name: str) -> str | None:
    """The served base behind an adapter: its parent where that is listed, else the only entry without one."""
    parent = models.get(name)
    if parent in models:
        return parent
    bases = [model for model, above in models.items() if above is None]
    return bases[0] if len(bases) == 1 else None


def agreement(probes: Sequence[Probe], answers: Sequence[Sequence[str]]) -> float:
    """Share of the recorded first 16 tokens that stand at their place in the answers; 1.0 for no probes."""
    equal = total = 0
    for probe, answer in zip(probes, answers, strict=True):
        recorded, given = probe.tokens[:PROBE_TOKENS], answer[:PROBE_TOKENS]
        equal += sum(one == other for one, other in zip(recorded, given, strict=False))
        total += max(len(recorded), len(given))
    return equal / total if total else 1.0


def announceable(reports: Iterable[ReplicaReport], adapter: str) -> bool:
    """Whether a promotion may be announced: every replica that is up has proven it, and at least one is up."""
    up = [report for report in reports if report.state is not ReplicaState.DOWN]
    return bool(up) and all(adapter in report.proven for report in up)
