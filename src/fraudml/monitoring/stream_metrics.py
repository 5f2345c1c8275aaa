"""The metrics of a worker, beside those of every process that scores (:mod:`fraudml.monitoring.metrics`).

======================================== ========= ============================================================
metric                                   labels    meaning
======================================== ========= ============================================================
``fraud_stream_messages_total``          topic,    messages that were handled: decided, repeated (a known id that was
                                         outcome   published before), recorded and unchanged (labels), dead
``fraud_stream_lag_messages``            topic,    messages of this worker's partitions that wait to be read
                                         partition
``fraud_stream_delay_seconds``                     from a transaction's publication to its decision's
``fraud_stream_event_delay_seconds``               age of the last transaction read, by its own time
``fraud_stream_failures_total``          kind      batches that could not be committed and were read again:
                                                   stream (Kafka failed), store (the decision log failed)
``fraud_stream_rebalances_total``        what      partitions that came or went: assigned, revoked, lost
``fraud_stream_waiting``                 topic     1 while the worker waits for a dependency and reads nothing
======================================== ========= ============================================================
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_DELAYS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)


class StreamMetrics:
    """The metrics of one worker, in the registry of its other ones.

    >>> registry = CollectorRegistry()
    >>> StreamMetrics(registry).lag("transactions", {("transactions", 0): 7})
    >>> registry.get_sample_value("fraud_stream_lag_messages", {"topic": "transactions", "partition": "0"})
    7
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._messages = Counter(
            "fraud_stream_messages",
            "Messages handled: decided, repeated, recorded, unchanged, dead.",
            ["topic", "outcome"],
            registry=registry,
        )
        self._delay = Histogram(
            "fraud_stream_delay_seconds",
            "From a transaction's publication to its decision's.",
            buckets=_DELAYS,
            registry=registry,
        )
        self._event_delay = Gauge(
            "fraud_stream_event_delay_seconds", "Age of the last transaction read, by its own time.", registry=registry
        )
        self._failures = Counter(
            "fraud_stream_failures", "Batches that were read again: stream, store.", ["kind"], registry=registry
        )
        self._rebalances = Counter(
            "fraud_stream_rebalances", "Partitions: assigned, revoked, lost.", ["what"], registry=registry
        )
        self._waiting = Gauge(
            "fraud_stream_waiting", "1 while the worker waits for a dependency.", ["topic"], registry=registry
        )
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
        family = GaugeMetricFamily(
            "fraud_stream_lag_messages", "Messages that wait to be read.", labels=["topic", "partition"]
        )
        for lags in list(self.waiting.values()):
            for (topic, partition), waiting in sorted(lags.items()):
                family.add_metric([topic, str(partition)], waiting)
        return [family]
