"""What takes more than counting, found every few minutes by a process of its own: ``fraudml monitor``.

Each job gives the values of its gauges. One that fails keeps those it had, is counted, and does not stop the others;
when a job last succeeded is a metric, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from fraudml.errors import FraudmlError
from fraudml.monitoring.catalogue import counter
from fraudml.monitoring.told import Told, Values

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """``gauges``: the names of all that it may tell; ``run`` gives their values now."""

    gauges: tuple[str, ...]
    run: Callable[[], Values]


class Monitor:
    """Runs jobs, by name, one after the other.

    >>> monitor = Monitor({"labels": Job(("fraud_precision",), lambda: {"fraud_precision": {(): 0.5}})})
    >>> monitor.look()
    True
    >>> "fraud_precision 0.5" in monitor.text().decode()
    True
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.collector = registry = CollectorRegistry()
        self._jobs = jobs
        self._told = Told()
        registry.register(self._told)
        self._failures = counter("fraud_monitor_failures_total", registry)
        for name in jobs:
            self._failures.labels(name)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.looked = threading.Event()  # all jobs have run once

    def look(self) -> bool:
        """Run each job once; whether all succeeded."""
        fine = [self._run(name, job) for name, job in self._jobs.items()]
        self.looked.set()
        return all(fine)

    def run(self, every_s: float, ending: threading.Event) -> None:
        """Look at once and then every ``every_s`` seconds, or when the last look has ended if that takes longer."""
        due = time.monotonic()
        while not ending.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + every_s
            self.look()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.collector)

    def _run(self, name: str, job: Job) -> bool:
        began = time.monotonic()
        try:
            self._told.replace(job.gauges, job.run())
        except Exception as error:  # of any kind: a job that fails must not end the others
            unforeseen = None if isinstance(error, FraudmlError) else error
            logger.warning("%s is not known now: %s", name, error, exc_info=unforeseen)
            self._failures.labels(name).inc()
            return False
        self._told.add("fraud_monitor_run_timestamp_seconds", time.time(), task=name)
        self._told.add("fraud_monitor_duration_seconds", time.monotonic() - began, task=name)
        return True
