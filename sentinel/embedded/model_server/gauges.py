"""The server's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sentinel.embedded.model_server.engine import Engine
from sentinel.embedded.model_server.registry import Registry


class Gauges(Collector):
    """Reads the engine's counts when asked."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry
        self._exposed = CollectorRegistry()
        self._exposed.register(self)

    def text(self) -> bytes:
        """Prometheus' text format 0.0.4."""
        return generate_latest(self._exposed)

    def collect(self) -> list[Metric]:
        """All of them."""
        counts = self._engine.counts
        return [
            GaugeMetricFamily("model_server_running", "Sequences being decoded.", counts.running),
            GaugeMetricFamily("model_server_waiting", "Sequences waiting for a row.", counts.waiting),
            GaugeMetricFamily("model_server_largest_batch", "Most rows ever.", counts.largest_batch),
            GaugeMetricFamily("model_server_adapters", "Loaded adapters.", len(self._registry.adapters)),
            GaugeMetricFamily(
                "model_server_max_loras", "Adapters that can be loaded.", self._registry.max_loras
            ),
            CounterMetricFamily("model_server_steps", "Steps of the model.", counts.steps),
            CounterMetricFamily("model_server_prompt_tokens", "Tokens read.", counts.prompt_tokens),
            CounterMetricFamily("model_server_generated_tokens", "Tokens written.", counts.generated_tokens),
        ]
