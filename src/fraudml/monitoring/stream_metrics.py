"""The metrics of a worker, beside those of every process that scores (:mod:`fraudml.monitoring.catalogue`)."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fraudml.monitoring.catalogue import CATALOGUE, counter, gauge, histogram


class StreamMetrics:
    """The metrics of one worker, in the registry of its other ones.

    >>> registry = CollectorRegistry()
    >>> StreamMetrics(registry).lag("transactions", {("transactions", 0): 7})
    >>> registry.get_sample_value("fraud_stream_lag_messages", {"topic": "transactions", "partition": "0"})
    7
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._messages = counter("fraud_stream_messages_total", registry)
        self._delay = histogram("fraud_stream_delay_seconds", registry)
        self._event_delay = gauge("fraud_stream_event_delay_seconds", registry)
        self._failures = counter("fraud_stream_failures_total", registry)
        self._rebalances = counter("fraud_stream_rebalances_total", registry)
        self._waiting = gauge("fraud_stream_waiting", registry)
        self._lag = _Lag()
        registry.register(self._lag)

    def handled(self, topic: str, outcome: str, count: int = 1) -> None:
        """So many messages of a topic ended so."""
        self._messages.labels(topic, outcome).inc(count)

    def published(self, delays_s: list[float], event_delay_s: float) -> None:
        """Decisions were published so long after their transactions; the last of these had happened so long ago."""
        for delay in delays_s:
            self._delay.observe(delay)
        self._event_delay.set(event_delay_s)

    def failed(self, kind: str) -> None:
        """A batch could not be committed."""
        self._failures.labels(kind).inc()

    def rebalanced(self, what: str, count: int) -> None:
        """Partitions came or went."""
        self._rebalances.labels(what).inc(count)

    def lag(self, topic: str, waiting: Mapping[tuple[str, int], int]) -> None:
        """So many messages of our partitions of a topic wait."""
        self._lag.waiting[topic] = waiting

    def waiting(self, topic: str, is_so: bool) -> None:
        """Whether messages of a topic wait for a dependency."""
        self._waiting.labels(topic).set(is_so)


class _Lag(Collector):
    def __init__(self) -> None:
        self.waiting: dict[str, Mapping[tuple[str, int], int]] = {}

    def collect(self) -> list[GaugeMetricFamily]:
        """Of the partitions that are ours now, and of no others."""
        metric = CATALOGUE["fraud_stream_lag_messages"]
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for lags in list(self.waiting.values()):
            for (topic, partition), waiting in sorted(lags.items()):
                family.add_metric([topic, str(partition)], waiting)
        return [family]
