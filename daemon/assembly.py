"""Parts made from settings, and the intake that connects them; nothing here starts anything.

Tests call these functions with their own guard, source or clock.
"""

from __future__ import annotations

import datetime as dt
import socket
import uuid
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from consumers.flood import FloodLimits
from consumers.formats import decode
from consumers.handing import LoopLimits
from consumers.kafka import KafkaSource
from consumers.loop import ConsumerLoop
from consumers.source import Source
from daemon.observation import Observation
from daemon.pipeline import Pipeline, decoder
from daemon.recorder import Recorder, RecorderLimits
from daemon.scoring import Scorer, ScoringLimits
from sentinel import logs
from sentinel.announcements import FindingOutput, announce_dead_letter, announce_interaction
from sentinel.breaker import Breaker, BreakerState
from sentinel.clock import Clock
from sentinel.guards.base import Guard
from sentinel.kafka_security import security_arguments
from sentinel.metrics import Metrics
from sentinel.served import ServedModel, ServedModels
from sentinel.settings import Settings
from sentinel.store.connections import connect_to
from sentinel.store.flush import Flushed
from sentinel.store.partitions import create_missing
from sentinel.verdicts import Policy

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logs.get("daemon.assembly")


def code_version() -> str:
    """Version of the installed distribution, stored with what this code writes."""
    return version("sentinel-loop")


def make_policy(settings: Settings) -> Policy:
    """The active policy."""
    policy = settings.policy
    return Policy(
        version=policy.version,
        strict=policy.strict,
        ignored_categories=frozenset(policy.ignored_categories),
    )


def make_served(settings: Settings) -> ServedModels:
    """The served models by name."""
    return ServedModels(
        ServedModel(
            name=name,
            public_name=model.public_name,
            base=model.base,
            event_models=model.event_models,
            replicas=model.replicas,
        )
        for name, model in settings.served_models.items()
    )


def make_source(settings: Settings) -> KafkaSource:
    """The member of the consumer group, not connected yet. Raises ConfigurationError for TLS files."""
    kafka = settings.kafka
    return KafkaSource(
        kafka.topics,
        {
            "bootstrap_servers": list(kafka.bootstrap_servers),
            "group_id": kafka.group_id,
            "group_instance_id": kafka.instance_id,
            "client_id": kafka.client_id,
            "isolation_level": kafka.isolation_level,
            "session_timeout_ms": kafka.session_timeout_ms,
            "heartbeat_interval_ms": kafka.heartbeat_interval_ms,
            "rebalance_timeout_ms": kafka.rebalance_timeout_ms,
            "max_poll_interval_ms": kafka.max_poll_interval_ms,
            "fetch_max_wait_ms": kafka.fetch_max_wait_ms,
            "fetch_max_bytes": kafka.fetch_max_bytes,
            "max_partition_fetch_bytes": kafka.max_partition_fetch_bytes,
            "request_timeout_ms": kafka.request_timeout_ms,
            "metadata_max_age_ms": kafka.metadata_max_age_ms,
            **security_arguments(kafka.security),
        },
    )


class Intake:
    """Loop, pipeline, scorer and recorder, connected: everything from the log to the store."""

    def __init__(
        self,
        settings: Settings,
        *,
        engine: AsyncEngine,
        guard: Guard,
        served: ServedModels,
        source: Source,
        metrics: Metrics,
        clock: Clock,
        poller_tick: Callable[[], None],
        writer_tick: Callable[[], None],
        wrote: Callable[[Flushed], None],
        owner: str | None = None,
        default_format: str | None = None,
    ) -> None:
        self.observation = Observation(metrics, clock)
        self.connect = connect_to(engine)
        self._clock = clock
        self._engine = engine
        self._wrote = wrote
        self._guard_state = BreakerState.CLOSED
        self.guard_breaker = Breaker(
            "guard",
            clock=clock,
            failures=settings.daemon.breaker_failures,
            pause_base=settings.daemon.breaker_probe_s,
            on_change=self._guard_changed,
        )
        consumer, kafka = settings.consumer, settings.kafka
        findings = settings.findings
        output = FindingOutput(
            topic=kafka.findings_topic,
            document=findings.document,
            evaluation=findings.evaluation,
            evaluation_topic=findings.evaluation_topic,
            include_text=findings.include_text,
        )
        version_here = code_version()
        self.recorder = Recorder(
            self.connect,
            limits=RecorderLimits(
                flush_rows=consumer.flush_rows, flush_interval_s=consumer.flush_interval_ms / 1000
            ),
            announce=lambda new, now: announce_interaction(new, now, output),
            dead_letter_rows=lambda letter: announce_dead_letter(
                letter, clock.now(), code_version=version_here, topic=kafka.dead_letters_topic
            ),
            create_partition=self._create_partition,
            fenced=self._fenced,
            wrote=self._flushed,
            observer=self.observation,
            clock=clock,
            tick=writer_tick,
            code_version=version_here,
        )
        self.scorer = Scorer(
            guard,
            policy=make_policy(settings),
            served=served,
            sampling=consumer.sampling,
            limits=ScoringLimits(
                batch_size=settings.guard.batch_size,
                linger_s=settings.guard.linger_ms / 1000,
                in_flight=consumer.in_flight,
                check_prompts=settings.guard.check_prompts,
                per_key=consumer.order == "key",
            ),
            breaker=self.guard_breaker,
            put=self.recorder.put,
            wake=self._wake,
            observer=self.observation,
        )
        self.pipeline = Pipeline(
            decoder(decode, kafka.topic_formats, default_format),
            self.scorer,
            self.recorder,
            max_record_bytes=consumer.max_record_bytes,
        )
        self.loop = ConsumerLoop(
            source,
            self.pipeline,
            connect=self.connect,
            limits=LoopLimits(
                in_flight=consumer.in_flight,
                span=consumer.span,
                buffered_bytes=consumer.max_buffered_bytes,
                commit_interval_s=consumer.commit_interval_s,
                halt_check_s=consumer.halt_check_s,
                revoke_drain_s=kafka.rebalance_timeout_ms / 2000,
                flood=FloodLimits(
                    ratio=consumer.bad_ratio,
                    window=consumer.bad_window,
                    consecutive=consumer.bad_consecutive,
                ),
            ),
            owner=owner or f"{socket.gethostname()}:{uuid.uuid4().hex[:12]}",
            group_id=kafka.group_id,
            start=kafka.start,
            observer=self.observation,
            clock=clock,
            tick=poller_tick,
        )

    def _guard_changed(self, state: BreakerState) -> None:
        before, self._guard_state = self._guard_state, state
        self.observation.breaker("guard", state)
        if before is BreakerState.CLOSED:
            _log.error(
                "The guard is away; intake stops until it is back.",
                action="breaker",
                target="guard",
                error=self.guard_breaker.reason,
            )
        elif state is BreakerState.CLOSED:
            _log.info("The guard is back.", action="breaker", target="guard")

    async def _create_partition(self, day: dt.date) -> None:
        async with self.connect() as conn:
            await create_missing(conn, day)

    def _wake(self) -> None:
        self.loop.wake()

    def _fenced(self, partitions: Iterable[tuple[str, int]]) -> None:
        lost = list(partitions)
        self.observation.fenced(len(lost))
        self.loop.fenced(lost)

    def _flushed(self, result: Flushed) -> None:
        self.loop.wake()
        self._wrote(result)
