"""What a process counts of decisions, requests and objectives."""

from __future__ import annotations

import pytest

from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.record import Action, Degradation
from fraudml.errors import ConflictError
from fraudml.monitoring.metrics import Metrics, Objective
from tests.support.scoring import bundle, decision, transaction


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.collector.get_sample_value(name, labels)


def test_decisions_count_by_version_arm_and_action_and_predictions_by_what_was_predicted() -> None:
    metrics = Metrics("cards")
    event = transaction(1)
    metrics.batch(
        [
            decision(event, 1, score=0.004),
            decision(event, 2, action=Action.review, score=0.3),
            decision(event, 3, action=Action.decline, arm="challenger-2", model_version="2", late=True),
            decision(event, 4, action=Action.review, score=None, degraded=(Degradation.model,)),
            ConflictError("other content"),
        ],
        {"decode": 0.001, "queue": 0.002},
    )
    of = {"model": "cards", "version": "1", "arm": "champion"}
    assert value(metrics, "fraud_decisions_total", action="review", **of) == 2
    assert (
        value(metrics, "fraud_decisions_total", action="decline", model="cards", version="2", arm="challenger-2") == 1
    )
    assert value(metrics, "fraud_predictions_total", model="cards", label="fraud") == 3
    assert value(metrics, "fraud_predictions_total", model="cards", label="genuine") == 1
    assert value(metrics, "fraud_score_bucket", version="1", le="0.005") == 1
    assert value(metrics, "fraud_score_count", version="1") == 2
    assert value(metrics, "fraud_late_total") == 1
    assert value(metrics, "fraud_degraded_total", reason="model") == 1
    assert value(metrics, "fraud_batch_transactions_sum") == 5
    assert value(metrics, "fraud_stage_seconds_count", stage="queue") == 1


@pytest.mark.parametrize(("seconds", "p95", "p99"), [(0.01, 0, 0), (0.05, 0, 0), (0.051, 1, 0), (0.1001, 1, 1)])
def test_requests_that_miss_the_objective_are_counted(seconds: float, p95: int, p99: int) -> None:
    metrics = Metrics(objective=Objective(0.05))
    metrics.answered("predict", seconds)
    assert value(metrics, "fraud_latency_objective_seconds") == 0.05
    assert value(metrics, "fraud_slow_requests_total", objective="p95") == p95
    assert value(metrics, "fraud_slow_requests_total", objective="p99") == p99


def test_a_cost_that_is_not_known_is_not_told() -> None:
    assert value(Metrics(), "fraud_cost_per_hour") is None
    assert value(Metrics(objective=Objective(cost_per_hour=0.2)), "fraud_cost_per_hour") == 0.2


def test_what_serves_is_told_with_its_age_and_nothing_of_what_served_before() -> None:
    metrics = Metrics()
    metrics.serve(Lineup(Model(bundle())))
    assert value(metrics, "fraud_model_info", model="fraud", version="1") == 1
    assert value(metrics, "fraud_bundle_trained_timestamp_seconds", version="1") == 1_714_521_600
    assert value(metrics, "fraud_rollout_share", version="1", arm="champion") == 1


def test_a_dependency_is_asked_when_metrics_are_read() -> None:
    metrics, up = Metrics(), {"redis": True}
    metrics.watch_dependency("redis", lambda: up["redis"])
    assert value(metrics, "fraud_dependency_up", dependency="redis") == 1
    up["redis"] = False
    assert value(metrics, "fraud_dependency_up", dependency="redis") == 0
