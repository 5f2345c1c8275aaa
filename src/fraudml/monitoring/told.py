"""Gauges whose values are kept elsewhere, or found now and then: who has none is not exposed, rather than as 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fraudml.monitoring.catalogue import CATALOGUE

# A number, or what gives one when the metrics are read; it has to answer at once.
Value = float | Callable[[], float]
# Of each metric its values by those of its labels, in the order of the catalogue.
Values = Mapping[str, Mapping[tuple[str, ...], Value]]


class Told(Collector):
    """Gauges of the catalogue with the values that it was told.

    >>> told = Told()
    >>> told.add("fraud_queue_requests", lambda: 3)
    >>> [family.samples[0].value for family in told.collect()]
    [3]
    """

    def __init__(self) -> None:
        self._values: dict[str, Mapping[tuple[str, ...], Value]] = {}

    def add(self, name: str, value: Value, **labels: str) -> None:
        """This gauge has this value with these labels, beside those it has."""
        place = tuple(labels[label] for label in CATALOGUE[name].labels)
        self._values = {**self._values, name: {**self._values.get(name, {}), place: value}}

    def replace(self, names: Iterable[str], values: Values) -> None:
        """These gauges have these values and no others; one that is not among them has none any more."""
        kept = {name: value for name, value in self._values.items() if name not in set(names)}
        self._values = {**kept, **values}

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What they are now."""
        for name, values in self._values.items():
            metric = CATALOGUE[name]
            family = GaugeMetricFamily(name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                family.add_metric(labels, value() if callable(value) else value)
            yield family
