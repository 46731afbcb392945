"""What the parts report becomes metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from consumers.takeover import OwnedPartition
from consumers.tracker import Partition
from daemon import observation
from daemon.observation import Observation
from sentinel.breaker import BreakerState
from sentinel.clock import ManualClock
from sentinel.events import RawRecord
from sentinel.interactions import Interaction
from sentinel.metrics import BREAKER_CLOSED, BREAKER_OPEN, Metrics
from sentinel.outcomes import Outcome
from sentinel.store.flush import Entry, Flushed
from sentinel.store.offsets import TakenPartition
from tests.support.recordings import NOW, event, scored, unscored


class Bench:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clock = ManualClock(NOW)
        self.observation = Observation(Metrics(self.registry), self.clock)

    def value(self, name: str, **labels: Any) -> float | None:
        return self.registry.get_sample_value(name, {k: str(v) for k, v in labels.items()})

    def flushed(self, *new: Interaction, **fields: Any) -> None:
        done = {
            "outcomes": tuple((i.outcome, i.reason) for i in new),
            "replayed": 0,
            "collisions": 0,
            "new": new,
            "findings": tuple(i.event.event_id for i in new if i.unsafe),
        }
        result = Flushed(**{**done, **fields})
        self.observation.flushed(result, [Entry(i, True) for i in new], 0.01, NOW)


def tracker(partition: int = 0) -> OwnedPartition:
    taken = TakenPartition(
        topic="t",
        partition=partition,
        epoch=1,
        incarnation=0,
        cluster_id="c",
        next_offset=5,
        last_timestamp_ms=None,
        halted=None,
        bad_allowance=0,
        created=True,
    )
    return OwnedPartition(taken, 5)


def test_outcomes_labels_and_findings_are_counted() -> None:
    bench = Bench()
    bench.flushed(
        scored(event(0, "a")),
        scored(event(1, "b", unscanned_parts=2, nul_replaced=True), unsafe=True),
        unscored(event(2, "c")),
        outcomes=(
            (Outcome.STORED, ""),
            (Outcome.STORED, ""),
            (Outcome.UNSCORED, "guard_error"),
            (Outcome.DUPLICATE, "seen"),
        ),
        replayed=3,
        collisions=1,
    )
    value = bench.value
    assert value("sentinel_loop_phase_seconds_total", phase="record") == 0.01
    assert value("sentinel_events_total", outcome="stored", reason="") == 2
    assert value("sentinel_events_total", outcome="unscored", reason="guard_error") == 1
    assert value("sentinel_events_total", outcome="duplicate", reason="seen") == 1
    assert value("sentinel_verdicts_total", role="response", label="unsafe") == 1
    assert value("sentinel_verdicts_total", role="prompt", label="safe") == 2
    assert value("sentinel_replayed_total") == 3
    text = generate_latest(bench.registry).decode()
    assert "boil an egg" not in text, "no prompt in a metric"
    latest = [line for line in text.splitlines() if line.startswith("latest_finding{")]
    assert len(latest) == 1


def test_the_age_of_events_is_never_negative_and_unknown_ages_are_left_out() -> None:
    bench = Bench()
    now_ms = int(NOW.timestamp() * 1000)
    bench.flushed(
        *(scored(event(n, str(n), received_ms=ms)) for n, ms in enumerate((now_ms - 2000, now_ms + 5000, -1)))
    )
    assert bench.value("sentinel_event_age_seconds_count") == 2
    assert bench.value("sentinel_event_age_seconds_sum") == pytest.approx(2.0)


# -- one response id under several tenants

Call = tuple[str | None, str | None]
"""Response id, tenant."""


@pytest.mark.parametrize(
    ("calls", "conflicts"),
    [
        ([("a", "x"), ("a", "x")], 0),
        ([("a", "x"), ("b", "y")], 0),
        ([("a", "x"), ("a", "y")], 1),
        ([("a", None), ("a", "")], 0),
        ([("a", None), ("a", "x")], 1),
        ([("a", "x"), ("a", "y"), ("a", "z"), ("a", "x")], 1),
        ([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")], 2),
        ([(None, "x"), (None, "y")], 0),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_response_ids_under_two_tenants(calls: Sequence[Call], conflicts: int, together: bool) -> None:
    bench = Bench()
    new = [scored(event(n, name, tenant=tenant)) for n, (name, tenant) in enumerate(calls)]
    if together:
        bench.flushed(*new)
    else:
        for one in new:
            bench.flushed(one)
    assert bench.value("sentinel_response_id_tenant_conflicts_total") == conflicts


def test_only_so_many_response_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "_TENANTS_KEPT", 10)
    bench = Bench()
    for n in range(25):
        bench.flushed(scored(event(n, f"n-{n}", tenant="x")))
    assert len(bench.observation._tenants) == 10
    bench.flushed(scored(event(30, "n-24", tenant="y")), scored(event(31, "n-3", tenant="y")))
    assert bench.value("sentinel_response_id_tenant_conflicts_total") == 1


# -- partitions


def test_a_partition_that_goes_leaves_no_series() -> None:
    bench = Bench()
    owned = tracker()
    owned.begin(RawRecord("t", 0, 5, 0, None, b"x" * 40))
    bench.observation.partition(owned, 12)
    bench.observation.halted(owned.partition, "flood")
    labels = {"topic": "t", "partition": 0}
    assert bench.value("sentinel_consumer_lag_events", **labels) == 12
    assert bench.value("sentinel_buffered_bytes") == 40
    assert bench.value("sentinel_halted_partitions", reason="flood") == 1
    bench.observation.unassigned(owned.partition)
    bench.observation.partition(tracker(1), None)
    assert bench.value("sentinel_consumer_lag_events", **labels) is None
    assert bench.value("sentinel_buffered_bytes") == 0
    assert bench.value("sentinel_halted_partitions", reason="flood") == 0


def test_halts_are_counted_by_reason() -> None:
    bench = Bench()
    for number, reason in ((0, "flood"), (1, "flood"), (2, "foreign"), (0, "flood"), (1, "foreign")):
        bench.observation.halted(Partition("t", number), reason)
    found = {r: bench.value("sentinel_halted_partitions", reason=r) for r in ("flood", "foreign")}
    assert found == {"flood": 1, "foreign": 2}
    for number in range(3):
        bench.observation.halted(Partition("t", number), None)
    found = {r: bench.value("sentinel_halted_partitions", reason=r) for r in ("flood", "foreign")}
    assert found == {"flood": 0, "foreign": 0}


def test_progress_is_dated_when_there_is_some() -> None:
    bench = Bench()
    owned = tracker()
    name = "sentinel_last_progress_timestamp_seconds"
    bench.observation.partition(owned, None)
    first = bench.value(name)
    bench.clock.advance(60)
    bench.observation.partition(owned, None)
    assert bench.value(name) == first == NOW.timestamp()
    owned.next_offset += 1
    bench.observation.partition(owned, None)
    assert bench.value(name) == NOW.timestamp() + 60


def test_breakers_show_their_state() -> None:
    bench = Bench()
    seen = []
    for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED):
        bench.observation.breaker("guard", state)
        seen.append(bench.value("sentinel_breaker_state", target="guard"))
    assert len(set(seen)) == 3
    bench.observation.database(available=False)
    assert bench.value("sentinel_breaker_state", target="database") == seen[0]


def test_what_the_intake_waits_for_is_shown() -> None:
    bench = Bench()

    def state(target: str) -> float | None:
        return bench.value("sentinel_breaker_state", target=target)

    bench.observation.away("kafka")
    assert (state("kafka"), state("database")) == (BREAKER_OPEN, BREAKER_CLOSED)
    bench.observation.database(available=False)
    bench.observation.away("database")
    assert (state("kafka"), state("database")) == (BREAKER_CLOSED, BREAKER_OPEN)
    bench.observation.away("")
    assert state("database") == BREAKER_OPEN, "the recorder still waits for it"
    bench.observation.database(available=True)
    assert state("database") == BREAKER_CLOSED
