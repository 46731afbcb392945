"""The closed list of metrics. What is not here does not exist; dashboards and alerts are checked against it.

Prefix ``sentinel_``, base units, ``_total`` for counters. The seven names at the end are those that the
project's first dashboard used. No prompt, response, user or tenant text is ever a label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from sentinel.instruments import (
    BulkHistogram,
    ClosedCounter,
    ClosedGauge,
    ClosedGrid,
    ClosedHistogram,
    Exposed,
    LatestFinding,
    PartitionGauge,
    every,
)
from sentinel.outcomes import (
    DEAD_LETTER_REASONS,
    DUPLICATE_REASONS,
    IGNORED_REASONS,
    UNSCORED_REASONS,
    Outcome,
)
from sentinel.states import RunState
from sentinel.verdicts import Label, Role

REASONS: Final = {
    Outcome.STORED: frozenset({""}),
    Outcome.UNSCORED: UNSCORED_REASONS,
    Outcome.DUPLICATE: DUPLICATE_REASONS,
    Outcome.DEAD_LETTER: DEAD_LETTER_REASONS,
    Outcome.IGNORED: IGNORED_REASONS,
}
"""The reasons of each outcome; ``stored`` has none."""

BREAKER_CLOSED, BREAKER_HALF_OPEN, BREAKER_OPEN = 0, 1, 2
"""Values of ``sentinel_breaker_state``."""

GUARD_BUCKETS: Final = tuple(0.01 * 2**n for n in range(14))
"""Seconds, 0.01 doubling to 81.92: the advisory buckets of OpenTelemetry's GenAI client metrics."""
AGE_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
WRITE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
DRAIN_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZE_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
ROWS_BUCKETS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)

DEPENDENCIES: Final = ("guard", "database", "kafka", "served_model")
HALT_REASONS: Final = ("flood", "foreign")
PHASES: Final = ("poll", "decode", "record", "commit", "wait")
GUARD_ENDPOINTS: Final = ("batch", "single")
CALL_OUTCOMES: Final = ("ok", "timeout", "throttled", "error", "refused")
WRITE_RETRIES: Final = (
    "serialization",
    "deadlock",
    "missing_partition",
    "bisect",
    "connection",
)
LOAD_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROLLBACK_CAUSES: Final = ("rate", "probe")
TRIGGERS: Final = ("new_pairs", "unsafe_rate", "adapter_age", "drift")
OUTPUTS: Final = ("findings", "dead_letters", "promotions")


class Metrics(Exposed):
    """All metrics of one process, on the registry that is passed in."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        categories: Iterable[str] = (),
        served_models: Iterable[str] = (),
        replicas: Iterable[str] = (),
    ) -> None:
        """``categories``: the guard grammar's own category names; ``served_models`` and ``replicas`` (addresses):
        those of the settings. Others are counted as ``other``.
        """
        # One `_created` series beside every counter child doubles the exposition and says nothing new.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        ProcessCollector(registry=registry)
        self._events(categories)
        self._consumer()
        self._calls()
        self._store()
        self._serving(sorted(served_models), sorted(set(replicas)))
        self._training(sorted(served_models))
        self._seeds()

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=buckets)

    def _events(self, categories: Iterable[str]) -> None:
        """Items and what became of them."""
        r = self.registry
        ends = [(str(outcome), reason) for outcome, reasons in REASONS.items() for reason in reasons]
        ends += [(str(outcome), "other") for outcome in Outcome if outcome is not Outcome.STORED]
        self.events = ClosedCounter(
            r, "sentinel_events", "Items by how they ended.", ("outcome", "reason"), ends
        )
        self.verdicts = ClosedCounter(
            r,
            "sentinel_verdicts",
            "Guard verdicts by side and label.",
            ("role", "label"),
            every(Role, Label),
        )
        self.finding_categories = ClosedCounter(
            r,
            "sentinel_finding_categories",
            "Findings by the guard's category; one may have several.",
            ("category",),
            every(categories),
        )
        self.records = self._counter("sentinel_records", "Records read from the log.")
        self.replayed = self._counter(
            "sentinel_replayed", "Items read again after a crash whose own row was already there."
        )
        self.id_collisions = self._counter(
            "sentinel_id_collisions", "Items that reused another call's response id with another text."
        )
        self.tenant_conflicts = self._counter(
            "sentinel_response_id_tenant_conflicts", "Response ids seen under more than one tenant."
        )
        self.unscanned_parts = self._counter(
            "sentinel_unscanned_parts", "Content parts without text that no guard saw."
        )
        self.windowed = self._counter("sentinel_windowed_texts", "Texts cut into windows for the guard.")
        self.nul_replaced = self._counter(
            "sentinel_nul_replaced_texts", "Texts in which U+0000 was replaced."
        )
        self.event_age = BulkHistogram(
            r, "sentinel_event_age_seconds", "From the record's log timestamp to its stored row.", AGE_BUCKETS
        )

    def _consumer(self) -> None:
        """The loop, its limits and its partitions."""
        r = self.registry
        self.in_flight = self._gauge("sentinel_in_flight_events", "Events at the guard now.")
        self.buffered_bytes = self._gauge("sentinel_buffered_bytes", "Bytes of records in memory.")
        self.span = PartitionGauge(r, "sentinel_span_events", "Offsets held open in a partition.")
        self.lag = PartitionGauge(
            r, "sentinel_consumer_lag_events", "Records between the stored offset and the log's end."
        )
        self.assigned_partitions = self._gauge("sentinel_assigned_partitions", "Partitions of this process.")
        self.ready_partitions = self._gauge(
            "sentinel_ready_partitions", "Partitions that are taken over and polled."
        )
        self.halted_partitions = ClosedGauge(
            r, "sentinel_halted_partitions", "Partitions that wait for an operator.", "reason", HALT_REASONS
        )
        self.offset_gaps = self._counter(
            "sentinel_offset_gaps", "Gaps in a log: records that were gone before they were read."
        )
        self.offset_gap_records = self._counter("sentinel_offset_gap_records", "Offsets inside those gaps.")
        self.fenced = self._counter(
            "sentinel_fenced_partitions", "Flushes from which a partition was dropped: another owner had it."
        )
        self.commits = ClosedCounter(
            r,
            "sentinel_commits",
            "Commits of Kafka's own group offset.",
            ("result",),
            every(("ok", "failed")),
        )
        self.rebalances = self._counter("sentinel_rebalances", "Times that partitions were taken away.")
        self.rebalance_drain = self._histogram(
            "sentinel_rebalance_drain_seconds", "Time to drain before partitions went.", DRAIN_BUCKETS
        )
        self.phase_seconds = ClosedCounter(
            r,
            "sentinel_loop_phase_seconds",
            "Time by what loop and recorder did; they work side by side.",
            ("phase",),
            every(PHASES),
        )
        self.loop_lag = self._histogram(
            "sentinel_loop_lag_seconds", "How late the event loop ran a timer.", LAG_BUCKETS
        )
        self.last_progress = self._gauge(
            "sentinel_last_progress_timestamp_seconds", "When a stored offset last moved."
        )
        self._build = Gauge(
            "sentinel_build_info", "1; what runs here.", ("version", "policy", "guard"), registry=r
        )

    def _calls(self) -> None:
        """Calls to guard and served models."""
        r = self.registry
        self.breaker_state = ClosedGauge(
            r,
            "sentinel_breaker_state",
            "0 closed, 1 half open, 2 open: intake waits.",
            "target",
            DEPENDENCIES,
        )
        self.guard_request = ClosedHistogram(
            r,
            "sentinel_guard_request_seconds",
            "Requests to the guard.",
            ("endpoint", "outcome"),
            every(GUARD_ENDPOINTS, CALL_OUTCOMES),
            GUARD_BUCKETS,
        )
        self.guard_batch = self._histogram("sentinel_guard_batch_size", "Texts in one request.", SIZE_BUCKETS)
        self.guard_retries = ClosedCounter(
            r, "sentinel_guard_retries", "Requests sent again, by cause.", ("outcome",), every(CALL_OUTCOMES)
        )
        self.reprompt_request = ClosedHistogram(
            r,
            "sentinel_reprompt_request_seconds",
            "Requests for a second answer.",
            ("outcome",),
            every(CALL_OUTCOMES),
            GUARD_BUCKETS,
        )
        self.reprompts = ClosedCounter(
            r,
            "sentinel_reprompts",
            "Findings by how their re-prompt ended.",
            ("outcome",),
            every(("safe", "unsafe", "failed", "skipped")),
        )
        self.reprompts_pending = self._gauge(
            "sentinel_reprompts_pending", "Findings that wait for a re-prompt."
        )

    def _store(self) -> None:
        """Writes and the outbox."""
        r = self.registry
        self.db_write = self._histogram(
            "sentinel_db_write_seconds", "One flush, COMMIT included.", WRITE_BUCKETS
        )
        self.db_batch_rows = self._histogram("sentinel_db_batch_rows", "Items of one flush.", ROWS_BUCKETS)
        self.db_retries = ClosedCounter(
            r, "sentinel_db_retries", "Flushes repeated, by cause.", ("reason",), every(WRITE_RETRIES)
        )
        self.outbox_backlog = ClosedGauge(
            r, "sentinel_outbox_backlog_rows", "Outbox rows not sent yet.", "output", OUTPUTS
        )
        self.outbox_sent = ClosedCounter(
            r, "sentinel_outbox_sent", "Outbox rows sent.", ("output",), every(OUTPUTS)
        )

    def _serving(self, served_models: Iterable[str], replicas: Iterable[str]) -> None:
        """Replicas, adapters, and the watch over what was promoted."""
        r = self.registry
        self.replica_state = ClosedGauge(
            r,
            "sentinel_replica_state",
            "0 not looked at, 1 ok, 2 lagging, 3 stale, 4 wrong weights, 5 down.",
            "replica",
            replicas,
        )
        self.adapter_load = ClosedHistogram(
            r,
            "sentinel_adapter_load_seconds",
            "Loading one adapter into one replica.",
            ("served_model",),
            every(served_models),
            LOAD_BUCKETS,
        )
        self.generation = ClosedGauge(
            r,
            "sentinel_promotion_generation",
            "Number of the last change of service.",
            "served_model",
            served_models,
        )
        self.watch_responses = ClosedGauge(
            r,
            "sentinel_watch_responses",
            "Responses that the test after promotion has seen; 0 where none runs.",
            "served_model",
            served_models,
        )
        self.watch_log_e_value = ClosedGauge(
            r,
            "sentinel_watch_log_e_value",
            "Natural logarithm of that test's evidence; it alarms at log(1 / promotion.watch_alpha).",
            "served_model",
            served_models,
        )
        self.rollbacks_requested = ClosedCounter(
            r,
            "sentinel_rollbacks_requested",
            "Rollbacks that the daemon asked for, by what it saw.",
            ("served_model", "cause"),
            every(served_models, ROLLBACK_CAUSES),
        )

    def _training(self, served_models: Iterable[str]) -> None:
        """Triggers and training runs, as they stand in the store: every daemon shows the same."""
        r = self.registry
        rules = every(TRIGGERS, served_models)
        labels = ("trigger", "served_model")
        self.trigger_value = ClosedGrid(
            r,
            "sentinel_trigger_value",
            "Newest value of a trigger rule; NaN where none can be told.",
            labels,
            rules,
        )
        self.trigger_armed = ClosedGrid(
            r, "sentinel_trigger_armed", "1 where the rule may fire.", labels, rules
        )
        self.trigger_firings = ClosedGrid(
            r, "sentinel_trigger_firings", "Times that a rule has fired.", labels, rules
        )
        self.training_runs = ClosedGrid(
            r,
            "sentinel_training_runs",
            "Training runs by state.",
            ("served_model", "state"),
            every(served_models, RunState),
        )
        self.training_progress = ClosedGauge(
            r,
            "sentinel_training_progress",
            "Share of the newest training run that is done, 0 to 1.",
            "served_model",
            served_models,
        )
        self.training_heartbeat = ClosedGauge(
            r,
            "sentinel_training_heartbeat_timestamp_seconds",
            "Last sign of life of the run that is under way; 0 where none is.",
            "served_model",
            served_models,
        )

    def _seeds(self) -> None:
        """The names of the first dashboard."""
        r = self.registry
        self.llm_requests = self._counter("llm_requests", "Interactions processed.")
        self.llm_unsafe_prompts = self._counter(
            "llm_unsafe_prompts", "Interactions whose answer the guard called unsafe under the policy."
        )
        self.llm_reprompting = ClosedCounter(
            r, "llm_reprompting", "Re-prompt attempts.", ("outcome",), every(("success", "fail"))
        )
        self.data_findings = self._counter("data_findings", "Findings recorded.")
        self.latest_finding = LatestFinding(r)
        self.trace = ClosedGauge(
            r, "trace", "Newest attribution: what it found.", "kind", ("spans", "documents")
        )
        self.refinement_progress = self._gauge(
            "dataset_refinement_progress", "Share of the data set under construction that is done, 0 to 1."
        )

    def set_build(self, *, version: str, policy: str, guard: str) -> None:
        """Say what runs here; replaces what was said before."""
        self._build.clear()
        self._build.labels(version, policy, guard).set(1)
