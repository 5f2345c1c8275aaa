"""Counters and histograms for the hot path: counting is an append, and what was appended is counted together later.

The client library's own take a lock and walk through buckets for every value, several microseconds each
(docs/concepts/hot-path.md has the figures). These are exposed by that library all the same. Appending
to a list, copying it and deleting what was copied are one step each for the interpreter, so threads need no lock for
them, and no value is lost or counted twice.
"""

from __future__ import annotations

import threading
from collections import Counter as Counts
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fraudml.monitoring.catalogue import CATALOGUE

TOGETHER = 2_048  # values that are counted at once, if nobody reads them before

Labels = tuple[str, ...]
T = TypeVar("T")


class CounterTally(Collector):
    """A counter of the catalogue.

    >>> registry = CollectorRegistry()
    >>> CounterTally("fraud_degraded_total", registry).add(("model",))
    >>> registry.get_sample_value("fraud_degraded_total", {"reason": "model"})
    1
    """

    def __init__(self, name: str, registry: CollectorRegistry) -> None:
        self._metric = CATALOGUE[name]
        self._new: list[Labels] = []
        self._counts: Counts[Labels] = Counts()
        self._lock = threading.Lock()
        registry.register(self)

    def add(self, labels: Labels) -> None:
        """One more with these labels."""
        self._new.append(labels)
        if len(self._new) >= TOGETHER:
            self.counts()

    def extend(self, many: Iterable[Labels]) -> None:
        """One more for each of these."""
        self._new.extend(many)
        if len(self._new) >= TOGETHER:
            self.counts()

    def counts(self) -> Counts[Labels]:
        """How many there were so far, by labels."""
        with self._lock:
            self._counts.update(_taken(self._new))
            return self._counts.copy()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """All counts."""
        metric = self._metric
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, count in self.counts().items():
            family.add_metric(labels, count)
        yield family


class HistogramTally(Collector):
    """A histogram of the catalogue.

    >>> registry = CollectorRegistry()
    >>> HistogramTally("fraud_score", registry).observe(("1",), 0.3)
    >>> registry.get_sample_value("fraud_score_bucket", {"version": "1", "le": "0.3"})
    1
    """

    def __init__(self, name: str, registry: CollectorRegistry) -> None:
        self._metric = CATALOGUE[name]
        self._bounds = np.array(self._metric.buckets)
        self._names = [*(repr(float(bound)) for bound in self._metric.buckets), "+Inf"]
        self._new: dict[Labels, list[float]] = {}
        self._counts: dict[Labels, NDArray[np.int64]] = {}
        self._sums: dict[Labels, float] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, labels: Labels, value: float) -> None:
        """One more value with these labels."""
        new = self._new.get(labels)
        if new is None:
            new = self._new.setdefault(labels, [])
        new.append(value)
        if len(new) >= TOGETHER:
            self._fold()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All values so far."""
        self._fold()
        family = HistogramMetricFamily(self._metric.name, self._metric.help, labels=self._metric.labels)
        with self._lock:
            for labels, counts in self._counts.items():
                upto = counts.cumsum().tolist()
                family.add_metric(labels, list(zip(self._names, upto, strict=True)), self._sums[labels])
        yield family

    def _fold(self) -> None:
        with self._lock:
            for labels, new in list(self._new.items()):
                if values := _taken(new):
                    places = np.searchsorted(self._bounds, values)
                    counts = np.bincount(places, minlength=len(self._names))
                    self._counts[labels] = counts + self._counts.get(labels, 0)
                    self._sums[labels] = self._sums.get(labels, 0.0) + sum(values)


def _taken(new: list[T]) -> list[T]:
    """What is in a list now, which others append to meanwhile; it is not in the list any more."""
    taken = new[:]
    del new[: len(taken)]
    return taken
