from __future__ import annotations

import random
import string
import threading
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid5

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sentinel.instruments import PARTITION_SERIES_LIMIT, every
from sentinel.metrics import GUARD_BUCKETS, REASONS, Metrics
from sentinel.outcomes import Outcome
from sentinel.verdicts import Label, Role

SEEDS = {
    "llm_requests_total": "counter",
    "llm_unsafe_prompts_total": "counter",
    "llm_reprompting_total": "counter",
    "data_findings_total": "counter",
    "latest_finding": "gauge",
    "trace": "gauge",
    "dataset_refinement_progress": "gauge",
}
FINDING = UUID("6f1c7a52-3d0e-5b8e-9a41-8f2d6c1b7e90")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), categories=("Violent", "PII"))


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_the_seed_names_are_scraped_with_the_right_types(metrics: Metrics) -> None:
    types = {f.name: f.type for f in parse_text(metrics.exposition()[0].decode())}
    for name, kind in SEEDS.items():
        assert types[name.removesuffix("_total")] == kind
        assert name in metrics.names()
    assert [labels for name, labels in samples(metrics) if name == "llm_reprompting_total"] == [
        (("outcome", outcome),) for outcome in ("fail", "other", "success")
    ]


def test_names_are_prefixed_and_in_base_units(metrics: Metrics) -> None:
    own = {n for n in metrics.names() if n not in SEEDS and not n.startswith("process_")}
    assert len(own) > 50
    assert all(name.startswith("sentinel_") for name in own)
    assert not [
        name for name in own if any(unit in name for unit in ("_ms", "millis", "_kb", "_mb", "minutes"))
    ]
    text = metrics.exposition()[0].decode()
    assert "_created" not in text
    for family in parse_text(text):
        assert family.documentation, family.name


def test_both_text_formats_parse(metrics: Metrics) -> None:
    metrics.events.inc("stored", "")
    body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    parsed: list[Metric] = list(openmetrics.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]
    families = {family.name for family in parsed}
    assert "sentinel_events" in families
    body, content_type = metrics.exposition("*/*")
    assert content_type.startswith("text/plain")


def test_every_legal_outcome_has_its_series_from_the_start(metrics: Metrics) -> None:
    there = {labels for name, labels in samples(metrics) if name == "sentinel_events_total"}
    for outcome, reasons in REASONS.items():
        for reason in reasons:
            assert (("outcome", str(outcome)), ("reason", reason)) in there
    assert set(REASONS) == set(Outcome)


def test_a_count_lands_under_its_labels_whether_enum_or_text(metrics: Metrics) -> None:
    metrics.events.inc(Outcome.UNSCORED, "unparseable")
    metrics.events.inc("unscored", "unparseable", by=2)
    metrics.verdicts.inc(Role.RESPONSE, Label.UNSAFE)
    metrics.guard_request.observe("batch", "ok", value=0.3)
    metrics.outbox_backlog.set("findings", 7)
    assert value(metrics, "sentinel_events_total", outcome="unscored", reason="unparseable") == 3
    assert value(metrics, "sentinel_verdicts_total", role="response", label="unsafe") == 1
    assert value(metrics, "sentinel_guard_request_seconds_count", endpoint="batch", outcome="ok") == 1
    assert value(metrics, "sentinel_outbox_backlog_rows", output="findings") == 7


@pytest.mark.parametrize(
    ("labels", "counted"),
    [
        (("unscored", "text of a prompt"), ("unscored", "other")),
        (("stored", "text"), ("other", "other")),
        (("text", ""), ("other", "other")),
        (("stored", "tombstone"), ("other", "other")),
        (("ignored", "empty_response"), ("ignored", "other")),
    ],
)
def test_what_is_in_no_closed_set_is_other(
    metrics: Metrics, labels: tuple[str, str], counted: tuple[str, str]
) -> None:
    metrics.events.inc(*labels)
    assert value(metrics, "sentinel_events_total", outcome=counted[0], reason=counted[1]) == 1


def test_a_wrong_number_of_labels_is_a_mistake_of_the_caller(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="argument"):
        metrics.events.inc("stored")


def test_ten_thousand_random_events_add_no_series_and_no_text(metrics: Metrics) -> None:
    rng = random.Random(7)
    secret = "how-do-I-pick-a-lock"

    def noise() -> str:
        known = [str(o) for o in Outcome] + [r for reasons in REASONS.values() for r in reasons]
        odd = secret + "".join(rng.choices(string.printable, k=8))
        return rng.choice([*known, odd])

    for partition in range(4):
        metrics.lag.set("llm.events", partition, 1)
        metrics.span.set("llm.events", partition, 1)
    metrics.set_build(version="1", policy="1", guard="abc")
    before = set(samples(metrics)) - {s for s in samples(metrics) if s[0] == "latest_finding"}
    for number in range(10_000):
        metrics.events.inc(noise(), noise())
        metrics.verdicts.inc(noise(), noise())
        metrics.finding_categories.inc(noise())
        metrics.llm_reprompting.inc(noise())
        metrics.reprompts.inc(noise())
        metrics.commits.inc(noise())
        metrics.phase_seconds.inc(noise(), by=rng.random())
        metrics.guard_request.observe(noise(), noise(), value=rng.expovariate(1))
        metrics.reprompt_request.observe(noise(), value=rng.expovariate(1))
        metrics.guard_retries.inc(noise())
        metrics.db_retries.inc(noise())
        metrics.breaker_state.set(noise(), 2)
        metrics.halted_partitions.set(noise(), 1)
        metrics.trace.set(noise(), 1)
        metrics.lag.set("llm.events", rng.randrange(4), rng.random())
        metrics.latest_finding.set(uuid5(FINDING, str(number)), noise())
        metrics.llm_requests.inc()
    after = samples(metrics)
    assert set(after) - {s for s in after if s[0] == "latest_finding"} == before
    assert secret not in metrics.exposition()[0].decode()
    assert sum(v for (name, _), v in after.items() if name == "sentinel_events_total") == 10_000
    assert after["llm_requests_total", ()] == 10_000


def test_the_latest_finding_is_one_child_whatever_a_scrape_meets(metrics: Metrics) -> None:
    def children() -> list[Any]:
        families = parse_text(metrics.exposition()[0].decode())
        return [s for f in families if f.name == "latest_finding" for s in f.samples]

    assert [(s.labels, s.value) for s in children()] == [({"id": "", "hash": ""}, 0.0)]
    stop = threading.Event()

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            metrics.latest_finding.set(uuid5(FINDING, str(number)), f"secret answer {number}")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(15):
            assert len(children()) == 1
    finally:
        stop.set()
        writer.join()
    metrics.latest_finding.set(FINDING, "lone \ud800 surrogate")
    (only,) = children()
    assert only.labels["id"] == str(FINDING)
    assert len(only.labels["hash"]) == 16
    assert only.value == 1.0


def test_a_partition_that_goes_takes_its_series_along(metrics: Metrics) -> None:
    metrics.lag.set("t", 0, 5)
    metrics.lag.set("t", 1, 6)
    metrics.lag.remove("t", 0)
    metrics.lag.remove("t", 9)
    there = {
        labels: v for (name, labels), v in samples(metrics).items() if name == "sentinel_consumer_lag_events"
    }
    assert there == {(("partition", "1"), ("topic", "t")): 6}


def test_partitions_beyond_the_limit_are_summed(metrics: Metrics) -> None:
    for partition in range(PARTITION_SERIES_LIMIT + 3):
        metrics.lag.set("t", partition, 1)
    metrics.lag.set("t", PARTITION_SERIES_LIMIT, 10)

    def there() -> dict[Any, float]:
        return {k[1]: v for k, v in samples(metrics).items() if k[0] == "sentinel_consumer_lag_events"}

    rest = (("partition", "other"), ("topic", "other"))
    assert len(there()) == PARTITION_SERIES_LIMIT + 1
    assert there()[rest] == 12
    for extra in range(3):
        metrics.lag.remove("t", PARTITION_SERIES_LIMIT + extra)
    assert rest not in there()


def test_guard_buckets_double_from_ten_milliseconds() -> None:
    assert GUARD_BUCKETS[0] == 0.01
    assert GUARD_BUCKETS[-1] == pytest.approx(81.92)
    assert all(later == pytest.approx(2 * earlier) for earlier, later in pairwise(GUARD_BUCKETS))


def test_build_info_is_replaced(metrics: Metrics) -> None:
    metrics.set_build(version="1", policy="1", guard="a")
    metrics.set_build(version="1", policy="2", guard="a")
    there = [dict(labels) for name, labels in samples(metrics) if name == "sentinel_build_info"]
    assert there == [{"version": "1", "policy": "2", "guard": "a"}]


def test_two_processes_worth_of_metrics_do_not_meet(metrics: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    other.llm_requests.inc()
    assert value(metrics, "llm_requests_total") == 0
    assert metrics.names() == other.names()


def test_every_adds_other_once() -> None:
    assert every(("a",), ("b", "other")) == [("a", "b"), ("a", "other"), ("other", "b"), ("other", "other")]
