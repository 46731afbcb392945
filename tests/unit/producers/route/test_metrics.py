"""The route's metrics: a closed list, whatever is counted."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from producers.route.metrics import RouteMetrics


def make() -> RouteMetrics:
    return RouteMetrics(CollectorRegistry(), served_models=["a"], replicas=["http://r:1"])


def test_names_follow_the_rules_and_are_not_the_daemons() -> None:
    from sentinel.metrics import Metrics

    own = {name for name in make().names() if not name.startswith("process_")}
    assert all(name.startswith("sentinel_route_") for name in own)
    assert not own & Metrics(CollectorRegistry()).names()


def test_what_is_in_no_set_makes_no_series() -> None:
    metrics = make()
    before = metrics.exposition()[0].count(b"\n")
    metrics.requests.inc("what somebody wrote", "ok")
    metrics.missing.inc("a", "something else")
    metrics.replica_up.set("http://elsewhere", 1)
    assert metrics.exposition()[0].count(b"\n") == before
    assert b"what somebody wrote" not in metrics.exposition()[0]
