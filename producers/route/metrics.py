"""The closed list of the route's metrics; labels hold names of the configuration, never what was said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics

from sentinel.instruments import ClosedCounter, ClosedGauge, ClosedHistogram, Exposed, every

OUTCOMES: Final = (
    "ok", "client_error", "server_error", "unavailable", "adapter_missing", "unknown_model", "too_large", "refused",
    "broken_off", "client_gone",
)  # fmt: skip
"""ok 2xx and 3xx; client_error and server_error are the replica's; broken_off: it stopped in the middle."""
MISSING_ACTIONS: Final = ("retried", "base", "error")
EVENT_OUTCOMES: Final = (
    "published", "spooled", "dropped_queue", "dropped_spool", "dropped_unreadable", "dropped_refused",
    "own_traffic", "unsupported", "too_large",
)  # fmt: skip
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class RouteMetrics(Exposed):
    """All metrics of one route process, on the registry that is passed in."""

    def __init__(
        self, registry: CollectorRegistry, *, served_models: Iterable[str], replicas: Iterable[str]
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        ProcessCollector(registry=registry)
        models = sorted(served_models)
        self.requests = ClosedCounter(
            registry,
            "sentinel_route_requests",
            "Requests by served model and how they ended.",
            ("served_model", "outcome"),
            every(models, OUTCOMES),
        )
        self.seconds = ClosedHistogram(
            registry,
            "sentinel_route_request_seconds",
            "From the request's last byte to the answer's last byte.",
            ("served_model",),
            every(models),
            _BUCKETS,
        )
        self.first_byte = ClosedHistogram(
            registry,
            "sentinel_route_first_byte_seconds",
            "From the request's last byte to the replica's headers.",
            ("served_model",),
            every(models),
            _BUCKETS,
        )
        self.in_flight = Gauge("sentinel_route_in_flight_requests", "Requests under way.", registry=registry)
        self.missing = ClosedCounter(
            registry,
            "sentinel_route_adapter_missing",
            "Times that a replica lacked the adapter (retried), and requests for which all did (base, error).",
            ("served_model", "action"),
            every(models, MISSING_ACTIONS),
        )
        self.generation = ClosedGauge(
            registry,
            "sentinel_route_generation",
            "Number of the promotion that is followed.",
            "served_model",
            models,
        )
        self.mapping_age = Gauge(
            "sentinel_route_mapping_age_seconds", "Since the promotions were last read.", registry=registry
        )
        self.replica_up = ClosedGauge(
            registry,
            "sentinel_route_replica_up",
            "1 where the replica answers.",
            "replica",
            sorted(set(replicas)),
        )
        self.events = ClosedCounter(
            registry,
            "sentinel_route_events",
            "Prompt/response events by what became of them.",
            ("outcome",),
            every(EVENT_OUTCOMES),
        )
        self.queue_bytes = Gauge(
            "sentinel_route_queue_bytes", "Bytes of calls that wait for the publisher.", registry=registry
        )
        self.spool_bytes = Gauge(
            "sentinel_route_spool_bytes", "Bytes of events that wait on disk for Kafka.", registry=registry
        )
        self.publish_failures: Counter = Counter(
            "sentinel_route_publish_failures", "Times that Kafka took nothing.", registry=registry
        )
