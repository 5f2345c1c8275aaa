"""The jobs of the monitor that read the decision log."""

from __future__ import annotations

import time
from collections.abc import Callable

from fraudml.decisions.log import DecisionLog
from fraudml.features.spec import FeatureSet
from fraudml.monitoring.catalogue import CATALOGUE, MOST_FEATURES
from fraudml.monitoring.drift import compare
from fraudml.monitoring.drift.compare import UNKNOWN
from fraudml.monitoring.monitor import Job
from fraudml.monitoring.told import Value, Values

DRIFT_GAUGES = tuple(name for name in CATALOGUE if name.startswith("fraud_drift"))


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
    told["fraud_drift_new_category_share"] = {(each.name,): each.new_share for each in shown if each.kind == "category"}
    return told
