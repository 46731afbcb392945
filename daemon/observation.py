"""What the parts report, on the closed metric list."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import UUID

from consumers.takeover import OwnedPartition
from consumers.tracker import Partition
from sentinel.breaker import BreakerState
from sentinel.clock import Clock
from sentinel.interactions import Interaction
from sentinel.metrics import BREAKER_CLOSED, BREAKER_HALF_OPEN, BREAKER_OPEN, Metrics
from sentinel.store.flush import Entry, Flushed

_BREAKER_VALUES = {
    BreakerState.CLOSED: BREAKER_CLOSED,
    BreakerState.HALF_OPEN: BREAKER_HALF_OPEN,
    BreakerState.OPEN: BREAKER_OPEN,
}

_TENANTS_KEPT = 20_000
"""Response ids whose tenant is remembered: some megabytes, a few minutes at full speed."""


class Observation:
    """Observer of loop, recorder, scoring and breakers; only counts, never waits."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._halted: dict[Partition, str] = {}
        self._buffered: dict[Partition, int] = {}
        self._previous: dict[Partition, int] = {}
        self._tenants: dict[str, str | None] = {}
        self._store_away = False
        self._intake_waits_for = ""

    # -- loop ------------------------------------------------------------------------------------------------

    def partition(self, tracker: OwnedPartition, lag: int | None) -> None:
        topic, number = tracker.partition
        self._metrics.span.set(topic, number, tracker.span)
        if lag is not None:
            self._metrics.lag.set(topic, number, lag)
        self._buffered[tracker.partition] = tracker.buffered_bytes
        self._metrics.buffered_bytes.set(sum(self._buffered.values()))
        if tracker.next_offset > self._previous.get(tracker.partition, -1):
            self._previous[tracker.partition] = tracker.next_offset
            self._metrics.last_progress.set(self._clock.now().timestamp())

    def assigned(self, partitions: int, ready: int) -> None:
        self._metrics.assigned_partitions.set(partitions)
        self._metrics.ready_partitions.set(ready)

    def unassigned(self, partition: Partition) -> None:
        self._metrics.span.remove(*partition)
        self._metrics.lag.remove(*partition)
        self._buffered.pop(partition, None)
        self._previous.pop(partition, None)
        self.halted(partition, None)

    def gap(self, partition: Partition, records: int) -> None:
        self._metrics.offset_gaps.inc()
        self._metrics.offset_gap_records.inc(records)

    def rebalance(self, drain_s: float, partitions: int) -> None:
        self._metrics.rebalances.inc()
        self._metrics.rebalance_drain.observe(drain_s)

    def committed(self, partitions: int, *, ok: bool) -> None:
        self._metrics.commits.inc("ok" if ok else "failed")

    def halted(self, partition: Partition, reason: str | None) -> None:
        before = self._halted.get(partition)
        if reason is None:
            self._halted.pop(partition, None)
        else:
            self._halted[partition] = reason
        for name in {before, reason} - {None}:
            self._metrics.halted_partitions.set(
                str(name), sum(found == name for found in self._halted.values())
            )

    def away(self, target: str) -> None:
        self._intake_waits_for = target
        self._dependencies()

    def phase(self, name: str, seconds: float) -> None:
        self._metrics.phase_seconds.inc(name, by=seconds)

    def records(self, number: int) -> None:
        self._metrics.records.inc(number)

    def fenced(self, partitions: int) -> None:
        self._metrics.fenced.inc(partitions)

    # -- recorder --------------------------------------------------------------------------------------------

    def flushed(self, result: Flushed, entries: Sequence[Entry], seconds: float, now: dt.datetime) -> None:
        metrics = self._metrics
        metrics.db_write.observe(seconds)
        metrics.phase_seconds.inc("record", by=seconds)
        metrics.db_batch_rows.observe(len(entries))
        for (outcome, reason), n in Counter(result.outcomes).items():
            metrics.events.inc(outcome.value, reason, by=n)
        if result.replayed:
            metrics.replayed.inc(result.replayed)
        if result.collisions:
            metrics.id_collisions.inc(result.collisions)
        metrics.llm_requests.inc(len(result.new))
        self._tenant_conflicts(result.new)
        self._verdicts(result.new)
        self._ages(result.new)
        if result.findings:
            self._findings(result.findings, [row for row in result.new if row.unsafe])

    def _tenant_conflicts(self, new: Sequence[Interaction]) -> None:
        """Response ids under several tenants, among the last `_TENANTS_KEPT` ids that this process stored.

        A call that reaches two processes, or comes long after, is seen by ``sentinel doctor`` only, which asks
        the database.
        """
        known = self._tenants
        for row in new:
            response_id = row.event.response_id
            if response_id is None:
                continue
            tenant = row.event.tenant or ""
            before = known.setdefault(response_id, tenant)
            if before is not None and before != tenant:
                # None from now on: every id is counted once, however many answers and tenants it has.
                known[response_id] = None
                self._metrics.tenant_conflicts.inc()
        while len(known) > _TENANTS_KEPT:
            del known[next(iter(known))]

    def _verdicts(self, new: Sequence[Interaction]) -> None:
        labels: defaultdict[tuple[str, str], int] = defaultdict(int)
        windowed = nul = unscanned = 0
        for row in new:
            for verdict in (row.prompt_verdict, row.response_verdict):
                if verdict is not None:
                    assessment = verdict.assessment
                    labels[verdict.role, assessment.label] += 1
                    windowed += assessment.windows > 1
            nul += row.event.nul_replaced
            unscanned += row.event.unscanned_parts
        for (role, label), n in labels.items():
            self._metrics.verdicts.inc(role, label, by=n)
        if windowed:
            self._metrics.windowed.inc(windowed)
        if nul:
            self._metrics.nul_replaced.inc(nul)
        if unscanned:
            self._metrics.unscanned_parts.inc(unscanned)

    def _ages(self, new: Sequence[Interaction]) -> None:
        stored_ms = self._clock.now().timestamp() * 1000
        received = [row.event.received_ms for row in new]
        self._metrics.event_age.observe_many(
            [max(0.0, (stored_ms - ms) / 1000) for ms in received if ms >= 0]
        )

    def _findings(self, finding_ids: Sequence[UUID], found: Sequence[Interaction]) -> None:
        self._metrics.llm_unsafe_prompts.inc(len(found))
        self._metrics.data_findings.inc(len(found))
        for row in found:
            if row.response_verdict is not None:
                for category in row.response_verdict.assessment.categories:
                    self._metrics.finding_categories.inc(category)
        self._metrics.latest_finding.set(finding_ids[-1], found[-1].event.response)

    def database(self, *, available: bool) -> None:
        self._store_away = not available
        self._dependencies()

    def _dependencies(self) -> None:
        """Loop and recorder both meet the database: it is back when neither waits for it."""
        waits_for = self._intake_waits_for
        for target, away in (
            ("kafka", waits_for == "kafka"),
            ("database", self._store_away or waits_for == "database"),
        ):
            self._metrics.breaker_state.set(target, BREAKER_OPEN if away else BREAKER_CLOSED)

    def retried(self, reason: str) -> None:
        self._metrics.db_retries.inc(reason)

    # -- scoring, breakers ---------------------------------------------------------------------------

    def in_flight(self, events: int) -> None:
        self._metrics.in_flight.set(events)

    def breaker(self, target: str, state: BreakerState) -> None:
        self._metrics.breaker_state.set(target, _BREAKER_VALUES[state])


class GuardObservation:
    """Observer of the guard's client."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request(self, endpoint: str, outcome: str, seconds: float, texts: int) -> None:
        self._metrics.guard_request.observe(endpoint, outcome, value=seconds)
        self._metrics.guard_batch.observe(texts)

    def retried(self, cause: str) -> None:
        self._metrics.guard_retries.inc(cause)
