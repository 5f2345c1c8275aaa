"""What PromQL expressions ask for."""

from __future__ import annotations

import re

from fraudml.monitoring.catalogue import CATALOGUE, Kind

# Metrics of ours, of the Python client, recorded ones (with colons), and what Prometheus says of targets itself.
_SELECTOR = re.compile(r"(?<![\w:$])((?:fraud|process|python)_\w+|\w+:[\w:]+|up)\b(\{[^}]*\})?")
_TEXT = re.compile(r'"[^"]*"')
# What Grafana puts in when a reader has chosen nothing.
_CHOICES = {"$__rate_interval": "1m", "$__range": "6h", "$job": "fraudml-.*", "$instance": ".*", "$version": ".*"}
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


def chosen(expr: str) -> str:
    """The expression that Grafana sends for a panel's.

    >>> chosen('rate(up{job=~"$job"}[$__rate_interval])')
    'rate(up{job=~"fraudml-.*"}[1m])'
    """
    for name, value in _CHOICES.items():
        expr = expr.replace(name, value)
    return expr


def selectors(expr: str) -> set[str]:
    """The vector selectors of an expression, without ranges and offsets.

    >>> sorted(selectors('sum by (fraud) (rate(fraud_late_total{job="up"}[5m])) / up'))
    ['fraud_late_total{job="up"}', 'up']
    """
    return {found[1] + (found[2] or "") for found in _SELECTOR.finditer(expr)}


def metrics(expr: str) -> set[str]:
    """The names of the metrics that an expression uses, those of a histogram by the histogram's name."""
    return {_metric(found[1]) for found in _SELECTOR.finditer(_TEXT.sub('""', expr))}


def _metric(name: str) -> str:
    for suffix in _OF_HISTOGRAMS:
        whole = name.removesuffix(suffix)
        if whole in CATALOGUE and CATALOGUE[whole].kind is Kind.histogram:
            return whole
    return name
