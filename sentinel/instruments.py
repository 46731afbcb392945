"""Metric types whose number of series is bounded by construction.

Labels come from closed sets; what is in none of them becomes ``other``. Children are made once and looked up
in a dict (0.1 us), since `prometheus_client` builds and locks at every ``labels()`` call (1 us).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, product
from typing import Final
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER: Final = "other"
"""Label value of whatever is in no closed set."""

PARTITION_SERIES_LIMIT: Final = 200
"""Series of one per-partition gauge; further partitions are summed under partition ``other``."""


class _Closed:
    """Which combinations of label values exist."""

    def __init__(self, combinations: Iterable[tuple[str, ...]], width: int) -> None:
        self.combinations = frozenset(combinations) | {(OTHER,) * width}
        self._values = [frozenset(c[i] for c in self.combinations) for i in range(width)]

    def nearest(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """``labels`` with every value from outside the sets replaced; never a new combination."""
        closed = tuple(
            label if label in known else OTHER for label, known in zip(labels, self._values, strict=True)
        )
        if closed in self.combinations:
            return closed
        partial = (closed[0], *(OTHER for _ in closed[1:]))
        return partial if partial in self.combinations else (OTHER,) * len(labels)


def every(*sets: Iterable[str]) -> list[tuple[str, ...]]:
    """All combinations of the sets, each set with ``other``."""
    return list(product(*(sorted({*values, OTHER}) for values in sets)))


class Exposed:
    """A closed list of metrics on one registry: what it may be asked by, and how it is scraped."""

    registry: CollectorRegistry

    def names(self) -> frozenset[str]:
        """Every name that an expression may use, sample suffixes included."""
        found: set[str] = set()
        for family in self.registry.collect():
            if family.type == "counter":
                found.add(f"{family.name}_total")
            elif family.type == "histogram":
                found.update(f"{family.name}_{part}" for part in ("bucket", "count", "sum"))
            else:
                found.add(family.name)
        return frozenset(found)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The scrape's body and content type, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class ClosedCounter:
    """A counter whose children all exist from the start, at zero."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        labels: tuple[str, ...],
        combinations: Iterable[tuple[str, ...]],
    ) -> None:
        self._closed = _Closed(combinations, len(labels))
        counter = Counter(name, text, labels, registry=registry)
        self._children = {c: counter.labels(*c) for c in sorted(self._closed.combinations)}

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add ``by`` under these labels, in the order of the declaration.

        Raises ValueError where their number is wrong.
        """
        child = self._children.get(labels)
        if child is None:
            child = self._children[self._closed.nearest(labels)]
        child.inc(by)


class ClosedGauge:
    """A gauge with one closed label; children exist from the start."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, label: str, values: Iterable[str]
    ) -> None:
        gauge = Gauge(name, text, (label,), registry=registry)
        self._children = {value: gauge.labels(value) for value in sorted({*values, OTHER})}

    def set(self, label: str, value: float) -> None:
        """Set the value under a label."""
        self._children.get(label, self._children[OTHER]).set(value)


class ClosedGrid:
    """A gauge with several closed labels; children exist from the start."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        labels: tuple[str, ...],
        combinations: Iterable[tuple[str, ...]],
    ) -> None:
        self._closed = _Closed(combinations, len(labels))
        gauge = Gauge(name, text, labels, registry=registry)
        self._children = {c: gauge.labels(*c) for c in sorted(self._closed.combinations)}

    def set(self, *labels: str, value: float) -> None:
        """Set the value under these labels, in the order of the declaration."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[self._closed.nearest(labels)]
        child.set(value)


class ClosedHistogram:
    """A histogram whose labels are closed; children exist from the start."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        labels: tuple[str, ...],
        combinations: Iterable[tuple[str, ...]],
        buckets: tuple[float, ...],
    ) -> None:
        self._closed = _Closed(combinations, len(labels))
        histogram = Histogram(name, text, labels, registry=registry, buckets=buckets)
        self._children = {c: histogram.labels(*c) for c in sorted(self._closed.combinations)}

    def observe(self, *labels: str, value: float) -> None:
        """Record one value under these labels, in the order of the declaration."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[self._closed.nearest(labels)]
        child.observe(value)


class BulkHistogram(Collector):
    """A histogram without labels that takes many values at once: one value costs a tenth of `Histogram`'s."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, buckets: tuple[float, ...]) -> None:
        """``buckets``: rising upper bounds, the infinite one left out."""
        self._name = name
        self._text = text
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe_many(self, values: Sequence[float]) -> None:
        """Record values; one that equals a bound belongs to its bucket."""
        bounds, counts = self._bounds, self._counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterator[Metric]:
        """Yield the family with cumulative buckets."""
        names = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric((), buckets, self._sum)
        yield family


class PartitionGauge:
    """A gauge for each assigned partition, bounded, with series that go when the partition goes."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str) -> None:
        self._gauge = Gauge(name, text, ("topic", "partition"), registry=registry)
        self._own: dict[tuple[str, int], Gauge] = {}
        self._rest: dict[tuple[str, int], float] = {}

    def set(self, topic: str, partition: int, value: float) -> None:
        """Set one partition's value; topics are those of the configuration."""
        at = (topic, partition)
        child = self._own.get(at)
        if child is None and at not in self._rest and len(self._own) < PARTITION_SERIES_LIMIT:
            child = self._own[at] = self._gauge.labels(topic, str(partition))
        if child is not None:
            child.set(value)
        else:
            self._rest[at] = value
            self._sum_rest()

    def remove(self, topic: str, partition: int) -> None:
        """Drop a partition that was taken away: a frozen lag would alert for ever."""
        at = (topic, partition)
        if self._own.pop(at, None) is not None:
            self._gauge.remove(topic, str(partition))
        elif self._rest.pop(at, None) is not None:
            self._sum_rest()

    def _sum_rest(self) -> None:
        if self._rest:
            self._gauge.labels(OTHER, OTHER).set(sum(self._rest.values()))
        else:
            self._gauge.remove(OTHER, OTHER)


class LatestFinding(Collector):
    """The newest finding as labels: exactly one child at any time, whatever a scrape runs beside.

    A gauge that is cleared and set again shows two children, or none, to a scrape in between.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._labels = ("", "")
        registry.register(self)

    def set(self, finding_id: UUID, content: str) -> None:
        """Replace it. ``content`` (the answer) only goes into the hash: 16 hex digits of its SHA-256."""
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._labels = (str(finding_id), digest)

    def collect(self) -> Iterator[Metric]:
        """Yield the one sample: 1, or 0 with empty labels before the first finding."""
        labels = self._labels
        family = GaugeMetricFamily(
            "latest_finding",
            "Newest finding by id and hash of its answer; texts are in the API.",
            labels=("id", "hash"),
        )
        family.add_metric(labels, 1.0 if labels[0] else 0.0)
        yield family
