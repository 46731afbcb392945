"""Every request to the guard shows in the metrics, by how it ended."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from daemon.observation import GuardObservation
from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.errors import UnavailableError
from sentinel.events import Message
from sentinel.guards.base import GuardRequest, load_grammar
from sentinel.guards.client import GuardOptions, HttpGuard
from sentinel.metrics import Metrics
from sentinel.verdicts import Role

REQUESTS = [GuardRequest(Role.PROMPT, (Message("user", f"Question {n}?"),)) for n in range(4)]


class Watched:
    """A client with metrics of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self.metrics = Metrics(CollectorRegistry())
        made = GuardOptions(base_url=url, model="scripted-guard", retry_base=0.01, retry_cap=0.02, **options)
        self.guard = HttpGuard(made, load_grammar("qwen3guard"), observer=GuardObservation(self.metrics))

    def requests(self, endpoint: str, outcome: str) -> float:
        return self._value("sentinel_guard_request_seconds_count", endpoint=endpoint, outcome=outcome)

    def retries(self, outcome: str) -> float:
        return self._value("sentinel_guard_retries_total", outcome=outcome)

    def batches(self) -> tuple[float, float]:
        count = self._value("sentinel_guard_batch_size_count")
        return count, self._value("sentinel_guard_batch_size_sum")

    def _value(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value


async def test_requests_and_their_sizes_are_counted() -> None:
    async with ScriptedGuard() as server:
        watched = Watched(server.url, mode="batch")
        await watched.guard.assess(REQUESTS)
        await watched.guard.assess(REQUESTS[:2])
        assert watched.requests("batch", "ok") == 2
        assert watched.batches() == (2, 6)
        assert server.stats.requests == 2
        await watched.guard.aclose()
        single = Watched(server.url, mode="single")
        await single.guard.assess(REQUESTS)
        assert single.requests("single", "ok") == 4
        assert single.batches() == (4, 4)
        await single.guard.aclose()


@pytest.mark.parametrize(
    ("faults", "options", "outcome"),
    [
        ({"error_rate": 1.0}, {"attempts": 2}, "error"),
        ({"garbage_rate": 1.0}, {"attempts": 2}, "error"),
        ({"hang_rate": 1.0}, {"total_timeout": 0.1, "probe_timeout": 0.1}, "timeout"),
    ],
)
async def test_failures_are_counted_by_how_they_failed(
    faults: dict[str, float], options: dict[str, Any], outcome: str
) -> None:
    async with ScriptedGuard() as server:
        watched = Watched(server.url, mode="batch", **options)
        server.set_faults(**faults)
        with pytest.raises(UnavailableError):
            await watched.guard.assess(REQUESTS)
        assert watched.requests("batch", "ok") == 0
        # A hanging server is not asked again at once; others are.
        assert watched.requests("batch", outcome) == (1 if outcome == "timeout" else 2)
        assert watched.retries(outcome) == (0 if outcome == "timeout" else 1)
        await watched.guard.aclose()


async def test_a_server_that_asks_for_less_is_counted_and_asked_again() -> None:
    async with ScriptedGuard(seed=3) as server:
        watched = Watched(server.url, mode="batch")
        server.set_faults(slow_down_rate=0.5, retry_after="")
        for _ in range(6):
            await watched.guard.assess(REQUESTS)
        assert watched.requests("batch", "throttled") == watched.retries("throttled") > 0
        assert watched.requests("batch", "ok") == 6
        await watched.guard.aclose()


async def test_a_refused_text_is_counted_as_refused() -> None:
    async with ScriptedGuard() as server:
        watched = Watched(server.url, mode="batch")
        await watched.guard.assess([GuardRequest(Role.PROMPT, (Message("user", "REFUSED-MARK"),))])
        assert watched.requests("batch", "refused") == 1
        assert watched.requests("single", "refused") >= 1
        await watched.guard.aclose()
