"""What works behind the offset, made from settings: the re-prompter and the relays. Nothing here starts anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from daemon.generators import Generators
from daemon.reprompting import Reprompter, RepromptLimits
from daemon.second_answers import SecondAnswers
from producers.kafka import make_producer
from producers.relay import Relay, RelayLimits
from sentinel.clock import Clock
from sentinel.guards.base import Guard
from sentinel.llm import ModelClient, ModelOptions
from sentinel.metrics import Metrics
from sentinel.served import ServedModel, ServedModels
from sentinel.settings import Settings
from sentinel.verdicts import Policy

if TYPE_CHECKING:
    import asyncpg

    from sentinel.store.connections import Connect


MONITORING_CONNECTIONS = 2
"""Connections of the pool that stay for the intake: one writes, one takes partitions over."""

ATTEMPT_SHARE = 0.8
"""Part of a lease that one attempt may take; the rest is for storing it."""


def spare_connections(connect: Connect, pool_size: int) -> Connect:
    """Connections for what works behind the offset, never so many that the intake has to wait for one.

    A relay holds a connection while a broker is slow to acknowledge; the writer must not notice.
    """
    places = asyncio.Semaphore(max(1, pool_size - MONITORING_CONNECTIONS))

    @asynccontextmanager
    async def bounded() -> AsyncIterator[asyncpg.Connection[Any]]:
        async with places, connect() as conn:
            yield conn

    return bounded


class OutboxMetrics:
    """A relay's reports on the closed metric list; topics are named by what they carry."""

    def __init__(self, metrics: Metrics, outputs: Mapping[str, str]) -> None:
        self._metrics = metrics
        self._outputs = outputs

    def sent(self, topic: str, n: int) -> None:
        """``n`` records were acknowledged and marked."""
        self._metrics.outbox_sent.inc(self._outputs.get(topic, topic), by=n)

    def failed(self, topic: str, reason: str) -> None:
        """Seen as a backlog that grows; the relay's log line says why."""

    def backlog(self, topic: str, rows: int, oldest_seconds: float) -> None:
        """Unsent rows, counted up to a limit."""
        self._metrics.outbox_backlog.set(self._outputs.get(topic, topic), rows)


def make_generators(settings: Settings, served: ServedModels, clock: Clock) -> Generators:
    """Clients of every replica, not connected yet."""
    reprompt = settings.reprompt

    def client(model: ServedModel, url: str) -> ModelClient:
        token = settings.served_models[model.name].admin_token
        options = ModelOptions(
            base_url=url,
            api_key=token.get_secret_value() if token else None,
            timeout=reprompt.timeout_s,
            # Other replicas are tried first, and what fails is claimed again later: repeats would eat the lease.
            retries=0,
            max_tokens=reprompt.max_tokens,
            temperature=reprompt.temperature,
            instruction_in="system" if reprompt.system_role else "user",
        )
        return ModelClient(options, clock=clock)

    return Generators(list(served), client, clock)


def make_reprompter(
    settings: Settings,
    connect: Connect,
    guard: Guard,
    generators: Generators,
    *,
    policy: Policy,
    metrics: Metrics,
    clock: Clock,
) -> Reprompter:
    """The task that asks again; with ``reprompt.enabled: false`` it marks findings as skipped."""
    reprompt = settings.reprompt
    answers = SecondAnswers(
        generators,
        guard,
        policy=policy,
        instruction=reprompt.instruction,
        instruction_version=reprompt.instruction_version,
        attempts=reprompt.attempts,
        attempt_s=reprompt.lease_s * ATTEMPT_SHARE,
        metrics=metrics,
        clock=clock,
    )
    return Reprompter(
        connect,
        generators,
        answers,
        limits=RepromptLimits(
            concurrency=reprompt.concurrency,
            poll_interval=reprompt.poll_interval_s,
            lease=reprompt.lease_s,
            max_claims=reprompt.max_claims,
        ),
        metrics=metrics,
        clock=clock,
        enabled=reprompt.enabled,
    )


def make_relays(settings: Settings, connect: Connect, metrics: Metrics, clock: Clock) -> list[Relay]:
    """One relay for each output topic; each makes its own producer, so that none waits for another's topic.

    Raises:
        ConfigurationError: the TLS files cannot be used (when the first row leaves).
    """
    kafka, findings = settings.kafka, settings.findings
    outputs = {
        kafka.findings_topic: "findings",
        kafka.dead_letters_topic: "dead_letters",
        kafka.promotions_topic: "promotions",
    }
    if findings.evaluation and findings.evaluation_topic:
        outputs.setdefault(findings.evaluation_topic, "findings")
    observer = OutboxMetrics(metrics, outputs)
    return [
        Relay(
            topic,
            connect,
            lambda topic=topic: make_producer(kafka, role=f"relay-{outputs[topic]}"),  # type: ignore[misc]
            clock=clock,
            metrics=observer,
            ordered=topic == kafka.promotions_topic,
            limits=RelayLimits(),
        )
        for topic in outputs
    ]
