"""The histogram that takes many values at once counts as the library's own does."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from sentinel.instruments import BulkHistogram

BUCKETS = (0.05, 0.5, 1.0, 60.0)


def test_it_exposes_what_a_histogram_exposes() -> None:
    values = [0.0, 0.05, 0.050001, 0.7, 1.0, 59.0, 61.0, 1e9]
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("age_seconds", "Age.", registry=theirs, buckets=BUCKETS)
    for value in values:
        histogram.observe(value)
    bulk = BulkHistogram(ours, "age_seconds", "Age.", BUCKETS)
    bulk.observe_many(values[:3])
    bulk.observe_many([])
    bulk.observe_many(values[3:])
    expected = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == expected


def test_it_is_there_before_the_first_value() -> None:
    registry = CollectorRegistry()
    BulkHistogram(registry, "age_seconds", "Age.", BUCKETS)
    assert b'age_seconds_bucket{le="+Inf"} 0.0' in generate_latest(registry)
