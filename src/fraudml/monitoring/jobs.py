"""The jobs of the monitor that read the decision log."""

from __future__ import annotations

import time
from collections.abc import Callable

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import DecisionLog
from fraudml.errors import NotFoundError
from fraudml.events.schema import Schema
from fraudml.events.units import parse_duration
from fraudml.features.spec import FeatureSet
from fraudml.monitoring.catalogue import CATALOGUE, MOST_FEATURES
from fraudml.monitoring.drift import compare
from fraudml.monitoring.drift.compare import UNKNOWN
from fraudml.monitoring.monitor import Job
from fraudml.monitoring.performance.estimate import estimate
from fraudml.monitoring.performance.reports import Project
from fraudml.monitoring.performance.results import Performance
from fraudml.monitoring.performance.sums import Window
from fraudml.monitoring.told import Value, Values

WINDOW_US = 28 * 86_400_000_000  # of the transactions whose performance is told
DRIFT_GAUGES = tuple(name for name in CATALOGUE if name.startswith("fraud_drift"))
PERFORMANCE_GAUGES = (
    *("fraud_detection_rate", "fraud_detection_rate_low", "fraud_detection_rate_high"),
    *("fraud_precision", "fraud_precision_low", "fraud_precision_high"),
    *("fraud_loss_per_day", "fraud_false_decline_cost_per_day", "fraud_confirmed_rate"),
    *("fraud_roc_auc", "fraud_pr_auc", "fraud_label_maturity", "fraud_label_delay_seconds"),
    *("fraud_label_age_seconds", "fraud_labels_expected"),
)


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


def drift(log: DecisionLog, features: FeatureSet, *, ahead_us: int, clock: Callable[[], int] = now_us) -> Job:
    """The last day against the four weeks before. With too few decisions only the volume is told."""

    def run() -> Values:
        reference, current, notes = compare.periods(log, now_us=clock())
        found = compare.compare(log, features, reference, current, notes=notes, ahead_us=ahead_us)
        return drift_values(found)

    return Job(DRIFT_GAUGES, run)


def drift_values(found: compare.DriftReport) -> dict[str, dict[tuple[str, ...], Value]]:
    """The gauges of a report: of the features that have drifted, and then of those that changed most."""
    told: dict[str, dict[tuple[str, ...], Value]] = {}
    if found.volume_ratio is not None:
        told["fraud_drift_volume_ratio"] = {(): found.volume_ratio}
    if found.verdict == UNKNOWN or found.score is None:
        return told
    told["fraud_drifted_features"] = {(): len(found.drifted)}
    told["fraud_drift_score_psi"] = {(): found.score.psi}
    told["fraud_drift_score_significant"] = {(): float(found.score.drifted)}
    shown = found.features[:MOST_FEATURES]
    told["fraud_drift_psi"] = {(each.name,): each.psi for each in shown}
    told["fraud_drift_significant"] = {(each.name,): float(each.drifted) for each in shown}
    told["fraud_drift_missing_share"] = {(each.name,): each.missing_now for each in shown}
    told["fraud_drift_missing_change"] = {(each.name,): each.missing_change for each in shown}
    categories = [each for each in shown if each.kind == "category"]
    told["fraud_drift_new_category_share"] = {(each.name,): each.new_excess for each in categories}
    return told


def project_of(schema: Schema, costs: Costs) -> tuple[Project, int | None]:
    """Whose performance is estimated, and how long labels may take, where the schema says."""
    decimals = schema.amount.decimals if schema.amount else 0
    entity = schema.entity_names[0] if schema.entity_names else ""
    maturity_us = parse_duration(schema.label.delay) if schema.label is not None else None
    return Project(entity, costs, decimals), maturity_us


def performance(log: DecisionLog, schema: Schema, costs: Costs, *, clock: Callable[[], int] = now_us) -> Job:
    """The last four weeks. Without decisions nothing is told."""
    whose, maturity_us = project_of(schema, costs)

    def run() -> Values:
        at_us = clock()
        try:
            found = estimate(log, whose, Window(at_us - WINDOW_US, at_us, at_us), maturity_us)
        except NotFoundError:
            return {}
        return performance_values(found, clock)

    return Job(PERFORMANCE_GAUGES, run)


def performance_values(found: Performance, clock: Callable[[], int] = now_us) -> Values:
    """The gauges of an estimate; the age of labels goes on growing between two of them."""
    feed = found.feed
    intervals = {
        "fraud_loss_per_day": found.loss_per_day,
        "fraud_false_decline_cost_per_day": found.false_decline_cost_per_day,
        "fraud_confirmed_rate": found.confirmed_rate,
        "fraud_roc_auc": found.roc_auc,
        "fraud_pr_auc": found.pr_auc,
    }
    values = {name: each.value for name, each in intervals.items() if each is not None}
    if found.maturity is not None:
        values["fraud_label_maturity"] = found.maturity
    if feed.expected is not None:
        values["fraud_labels_expected"] = feed.expected
    for name, interval in (("fraud_detection_rate", found.recall), ("fraud_precision", found.precision)):
        if interval is not None:
            values |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    told: dict[str, dict[tuple[str, ...], Value]] = {name: {(): value} for name, value in values.items()}
    newest_us = feed.newest_label_us
    if newest_us is not None:
        told["fraud_label_age_seconds"] = {(): lambda: max(0.0, (clock() - newest_us) / 1e6)}
    delays = {"0.5": found.delay_median_s, "0.9": found.delay_p90_s}
    if found.delay_median_s is not None:
        told["fraud_label_delay_seconds"] = {(level,): each for level, each in delays.items() if each is not None}
    return told
