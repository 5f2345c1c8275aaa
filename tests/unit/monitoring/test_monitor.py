"""The monitor tells what jobs find, and a job that fails stops no other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from fraudml.errors import DecisionLogError
from fraudml.monitoring.monitor import Job, Monitor
from fraudml.monitoring.told import Values


def value(monitor: Monitor, name: str, **labels: str) -> float | None:
    return monitor.collector.get_sample_value(name, labels)


def job(name: str, run: Callable[[], Values]) -> Job:
    return Job((name,), run)


def test_a_job_that_fails_is_counted_keeps_what_it_told_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    failing = False

    def drift() -> Values:
        if failing:
            raise DecisionLogError("gone")
        return {"fraud_drift_score_psi": {(): 0.5}}

    monitor = Monitor(
        {
            "drift": job("fraud_drift_score_psi", drift),
            "performance": job("fraud_precision", lambda: {"fraud_precision": {(): 0.25}}),
        }
    )
    assert monitor.look()
    first = value(monitor, "fraud_monitor_run_timestamp_seconds", task="drift")
    failing = True
    with caplog.at_level(logging.WARNING, "fraudml.monitoring"):
        assert not monitor.look()
    assert value(monitor, "fraud_drift_score_psi") == 0.5
    assert value(monitor, "fraud_precision") == 0.25
    assert value(monitor, "fraud_monitor_failures_total", task="drift") == 1
    assert value(monitor, "fraud_monitor_run_timestamp_seconds", task="drift") == first
    assert [record.getMessage() for record in caplog.records] == ["drift is not known now: gone"]


def test_a_defect_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor({"drift": job("fraud_drift_score_psi", lambda: {}["nothing"])})
    with caplog.at_level(logging.WARNING, "fraudml.monitoring"):
        assert not monitor.look()
    assert caplog.records[0].exc_info


def test_what_is_not_known_any_more_has_no_value() -> None:
    found: list[Values] = [
        {"fraud_drift_psi": {("amount",): 0.3, ("hour",): 0.1}},
        {"fraud_drift_psi": {("hour",): 0.2}},
    ]
    monitor = Monitor({"drift": job("fraud_drift_psi", lambda: found.pop(0))})
    monitor.look()
    assert value(monitor, "fraud_drift_psi", feature="amount") == 0.3
    monitor.look()
    assert value(monitor, "fraud_drift_psi", feature="amount") is None
    assert value(monitor, "fraud_drift_psi", feature="hour") == 0.2


def test_it_looks_until_it_is_told_to_end() -> None:
    ending, looks = threading.Event(), threading.Semaphore(0)

    def look() -> Values:
        looks.release()
        return {}

    monitor = Monitor({"drift": job("fraud_precision", look)})
    thread = threading.Thread(target=monitor.run, args=[0.001, ending])
    thread.start()
    assert all(looks.acquire(timeout=30) for _ in range(3))
    ending.set()
    thread.join(30)
    assert not thread.is_alive()
    assert monitor.looked.is_set()
