"""Processes that a test cannot have cheaply, as Prometheus sees them: a worker, and a monitor after weeks.

They are filled by the product's own classes, so names, types and labels are those that real ones expose.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.record import Action, Degradation
from fraudml.monitoring.catalogue import MONITOR
from fraudml.monitoring.metrics import Metrics, Objective
from fraudml.monitoring.monitor import Job, Monitor
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.monitoring.told import Values
from fraudml.scoring.status import Facts, StatusServer
from tests.support.scoring import bundle, decision, transaction

LOOKS = ("fraud_monitor_run_timestamp_seconds", "fraud_monitor_failures_total", "fraud_monitor_duration_seconds")
_ENDS_S = 30 * 86_400


@contextmanager
def worker() -> Iterator[str]:
    """Where a worker answers, to which everything happens that can happen, more of it each time it is read."""
    metrics = Metrics(objective=Objective(cost_per_hour=0.1))
    stream = StreamMetrics(metrics.collector)
    metrics.serve(Lineup(Model(bundle())))
    for name in ("online_store", "decision_log", "registry", "model_server", "redis"):
        metrics.watch_dependency(name, lambda: True)
    for state, count in (("used", 2.0), ("limit", 10.0)):
        metrics.watch("fraud_log_connections", lambda count=count: count, state=state)
    decided = [decision(transaction(1), 0, action=action, degraded=tuple(Degradation)) for action in Action]
    turns = itertools.count()

    def text() -> bytes:
        turn = next(turns)
        for outcome in ("scored", "flipped", "failed", "dropped", "unlogged"):
            metrics.shadow(outcome, 1)
        for outcome in ("shared", "dropped", "found", "error"):
            metrics.recent(outcome, 1)
        for outcome in ("hit", "miss", "error"):
            metrics.cache(outcome, 1)
        for outcome in ("decided", "repeated", "dead"):
            stream.handled("transactions", outcome)
        for outcome in ("swapped", "refused"):
            metrics.swap(outcome)
        metrics.breached("scores")
        metrics.batch(decided, {})
        stream.handled("labels", "recorded")
        stream.published([0.004 * (turn + 1)], 1.5)
        stream.lag("transactions", {("transactions", 0): turn, ("transactions", 1): 7})
        stream.failed("store")
        stream.rebalanced("assigned", 1)
        stream.waiting("transactions", False)
        return metrics.text()

    with _answers(text) as address:
        yield address


@contextmanager
def monitor() -> Iterator[str]:
    """Where a monitor answers that knows a value of everything."""
    told = [metric for metric in MONITOR if metric.name not in LOOKS]

    def look() -> Values:
        return {
            metric.name: {
                tuple("0.5" if label == "quantile" else f"a {label}" for label in metric.labels): (
                    time.time() + _ENDS_S if "expiry" in metric.name else 0.5
                )
            }
            for metric in told
        }

    watched = Monitor({"performance": Job(tuple(metric.name for metric in told), look)})
    watched.look()
    with _answers(watched.text) as address:
        yield address


@contextmanager
def _answers(text: Callable[[], bytes]) -> Iterator[str]:
    server = StatusServer("127.0.0.1", 0, Facts(lambda: False, lambda: True, text), "--port")
    try:
        yield server.address.removeprefix("http://")
    finally:
        server.close()
