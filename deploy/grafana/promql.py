"""The few forms of PromQL that the panels use.

Counters of several processes are summed after their rate was taken, so the restart of one is no jump of the sum. The
monitor is one process: its figures are taken with ``max``, so that a second one, started by mistake, does not double
them.
"""

from __future__ import annotations

SCOPE = 'job=~"$job",instance=~"$instance"'


def of(name: str, *matchers: str) -> str:
    """The series of the chosen processes.

    >>> of("fraud_late_total", 'topic="labels"')
    'fraud_late_total{job=~"$job",instance=~"$instance",topic="labels"}'
    """
    return f"{name}{{{','.join([SCOPE, *matchers])}}}"


def rate(name: str, *matchers: str, by: str = "", over: str = "$__rate_interval") -> str:
    """How much a counter grew a second, over all processes.

    >>> rate("fraud_late_total", by="topic")
    'sum by (topic) (rate(fraud_late_total{job=~"$job",instance=~"$instance"}[$__rate_interval]))'
    """
    return f"{_sum(by)}(rate({of(name, *matchers)}[{over}]))"


def increase(name: str, *matchers: str, by: str = "", over: str, ago: str = "") -> str:
    """How much a counter grew in a time, now or so long ago.

    >>> increase("fraud_late_total", over="1h", ago="1w")
    'sum(increase(fraud_late_total{job=~"$job",instance=~"$instance"}[1h] offset 1w))'
    """
    before = f" offset {ago}" if ago else ""
    return f"{_sum(by)}(increase({of(name, *matchers)}[{over}]{before}))"


def total(name: str, *matchers: str) -> str:
    """The sum of a gauge over processes."""
    return f"sum({of(name, *matchers)})"


def none_is_zero(expr: str) -> str:
    """A counter of what should not happen has no series before it first did."""
    return f"({expr} or vector(0))"


def share(part: str, whole: str) -> str:
    """A part of a whole; of nothing there is no share."""
    return f"{part} / ({whole} > 0)"


def quantile(q: float, name: str, *matchers: str, by: str = "", over: str = "$__rate_interval") -> str:
    """A quantile of a histogram over all processes."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', *matchers, by=labels, over=over)})"


def newest(name: str, *matchers: str, by: str = "") -> str:
    """A figure of the monitor."""
    selector = f"{name}{{{','.join(matchers)}}}" if matchers else name
    return f"max by ({by}) ({selector})" if by else f"max({selector})"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"
