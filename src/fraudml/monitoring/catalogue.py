"""Every metric of fraudml, by name: the one place that names them, for code, docs, alert rules and dashboards.

Who counts is in :mod:`fraudml.monitoring.metrics` (every process that scores), :mod:`fraudml.monitoring.stream_metrics`
(workers, besides) and :mod:`fraudml.monitoring.jobs` (``fraudml monitor``). Each process is a target of its
own for Prometheus: counters of several are summed by the query, never shared between processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MOST_KEYS = 200  # names of API keys told apart; requests of others count as OTHER
MOST_FEATURES = 25  # features whose drift is told
OTHER = "other"

SECONDS = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015),
    *(0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_STAGE_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_DELAYS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 500, 1_000, 5_000, 10_000)
SCORES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Kind(StrEnum):
    """What a metric does."""

    counter = "counter"
    gauge = "gauge"
    histogram = "histogram"


class Metric(NamedTuple):
    """A metric as it is exposed; the name of a counter ends in ``_total``. ``buckets``: of a histogram."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, Kind.counter, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, Kind.gauge, text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name, Kind.histogram, text, labels, buckets)


SCORING = (
    _counter(
        "fraud_predictions_total", "Transactions answered: fraud (reviewed, declined) or genuine.", "model", "label"
    ),
    _counter(
        "fraud_decisions_total",
        "The same by version, arm and action.",
        *("model", "version", "arm", "action"),
    ),
    _histogram("fraud_prediction_latency_seconds", "From a request's arrival to its decisions.", SECONDS, "route"),
    _counter("fraud_slow_requests_total", "Requests answered later than the latency objective.", "objective"),
    _gauge("fraud_latency_objective_seconds", "What 95 of 100 requests are to be answered within."),
    _histogram("fraud_stage_seconds", "Time of each stage of a batch.", _STAGE_SECONDS, "stage"),
    _histogram("fraud_batch_transactions", "Transactions decided together.", _SIZES),
    _histogram("fraud_score", "Scores of decisions.", SCORES, "version"),
    _gauge("fraud_queue_requests", "Requests that wait to be decided."),
    _gauge("fraud_queue_limit", "Requests that may wait; the next one is turned away."),
    _counter("fraud_shed_total", "Requests turned away: queue_full, deadline.", "reason"),
    _counter("fraud_late_total", "Decisions on events older than the newest of their entities."),
    _counter("fraud_degraded_total", "Decisions made without a dependency.", "reason"),
    _gauge("fraud_dependency_up", "0 while decisions are made without it.", "dependency"),
    _gauge("fraud_journal_decisions", "Decisions in the journal that the log lacks."),
    _gauge("fraud_journal_limit", "Decisions that the journal takes."),
    _gauge("fraud_log_connections", "Connections of the pool of the decision log: used, limit.", "state"),
    _counter("fraud_rejected_total", "Transactions refused: invalid, conflict.", "reason"),
    _counter("fraud_labels_total", "Label reports: recorded, unchanged, failed.", "outcome"),
    _counter("fraud_label_reports_total", "Label reports recorded: fraud, genuine.", "verdict"),
    _counter("fraud_http_requests_total", "Requests by path template and status.", "route", "status"),
    _counter("fraud_api_key_requests_total", "Requests by the name of their API key.", "key"),
    _counter("fraud_errors_total", "Requests that failed on our side, by kind of error.", "kind"),
    _gauge("fraud_model_info", "1 for the version that serves as champion.", "model", "version"),
    _gauge("fraud_bundle_trained_timestamp_seconds", "When the bundle of a version was made.", "version"),
    _gauge("fraud_rollout_share", "Share of all entities that a version decides on.", "version", "arm"),
    _counter("fraud_rollout_breaches_total", "Rollouts ended by a guardrail, by check.", "check"),
    _gauge("fraud_rollout_breached", "1 after a breach, until a rollout starts."),
    _gauge("fraud_rollout_judge_lag_seconds", "How far behind guardrails are; 0: they have seen all."),
    _counter("fraud_shadow_total", "Decisions in the shadow: scored, flipped, failed, dropped, unlogged.", "outcome"),
    _counter("fraud_model_swaps_total", "Newer models found while serving: swapped, refused.", "outcome"),
    _counter("fraud_cache_total", "Look-ups in the prediction cache: hit, miss, error.", "outcome"),
    _counter("fraud_recent_total", "Decisions in Redis: shared, dropped, found, error.", "outcome"),
    _gauge("fraud_cost_per_hour", "What this process costs an hour, as it was told."),
)

STREAM = (
    _counter(
        "fraud_stream_messages_total",
        "Messages handled: decided, repeated, recorded, unchanged, dead.",
        *("topic", "outcome"),
    ),
    _gauge("fraud_stream_lag_messages", "Messages that wait to be read.", "topic", "partition"),
    _histogram("fraud_stream_delay_seconds", "From a transaction's publication to its decision's.", _DELAYS),
    _gauge("fraud_stream_event_delay_seconds", "Age of the last transaction read, by its own time."),
    _counter("fraud_stream_failures_total", "Batches that were read again: stream, store.", "kind"),
    _counter("fraud_stream_rebalances_total", "Partitions: assigned, revoked, lost.", "what"),
    _gauge("fraud_stream_waiting", "1 while the worker waits for a dependency.", "topic"),
)

MONITOR = (
    _gauge("fraud_monitor_run_timestamp_seconds", "When a job last succeeded.", "task"),
    _counter("fraud_monitor_failures_total", "Runs of a job that failed.", "task"),
    _gauge("fraud_monitor_duration_seconds", "How long the last run of a job took.", "task"),
    _gauge("fraud_drift_psi", "Population stability index of a feature against its reference.", "feature"),
    _gauge("fraud_drift_score_psi", "The same of the score."),
    _gauge("fraud_drift_missing_share", "Share of decisions in which a feature is missing.", "feature"),
    _gauge("fraud_drift_missing_change", "That share less the reference's.", "feature"),
    _gauge("fraud_drift_new_category_share", "Share of new values, beyond what rare ones explain.", "feature"),
    _gauge("fraud_drift_significant", "1 where a feature has drifted.", "feature"),
    _gauge("fraud_drifted_features", "Features that have drifted."),
    _gauge("fraud_drift_score_significant", "1 where the score has drifted."),
    _gauge("fraud_drift_volume_ratio", "Transactions an hour against the reference."),
    _gauge(
        "fraud_detection_rate", "Share of frauds that were reviewed or declined (recall), corrected for late labels."
    ),
    _gauge("fraud_detection_rate_low", "Lower end of its 95 % interval."),
    _gauge("fraud_detection_rate_high", "Upper end of its 95 % interval."),
    _gauge(
        "fraud_precision", "Share of reviewed and declined transactions that are frauds, corrected for late labels."
    ),
    _gauge("fraud_precision_low", "Lower end of its 95 % interval."),
    _gauge("fraud_precision_high", "Upper end of its 95 % interval."),
    _gauge("fraud_loss_per_day", "Loss by frauds that were not stopped, a day, corrected for late labels."),
    _gauge("fraud_false_decline_cost_per_day", "Cost of genuine transactions declined, a day."),
    _gauge("fraud_confirmed_rate", "Share of transactions that are frauds, corrected for late labels."),
    _gauge("fraud_roc_auc", "Area under the ROC curve, on mature labels."),
    _gauge("fraud_pr_auc", "Average precision, on mature labels."),
    _gauge("fraud_label_maturity", "Share of the window's frauds that are reported by now."),
    _gauge("fraud_label_delay_seconds", "From a fraud to its report.", "quantile"),
    _gauge("fraud_label_age_seconds", "Time since the newest label report."),
    _gauge("fraud_labels_expected", "Reports of frauds that were to be expected since the newest one."),
    _gauge("fraud_replication_lag_seconds", "How far a replica of the database is behind.", "replica"),
    _gauge("fraud_backup_age_seconds", "Time since the last backup."),
    _gauge("fraud_certificate_expiry_timestamp_seconds", "When a certificate ends.", "file"),
    _gauge("fraud_api_key_expiry_timestamp_seconds", "When an API key ends.", "key"),
)

CATALOGUE = {metric.name: metric for metric in (*SCORING, *STREAM, *MONITOR)}

# What bounds the number of values of each label. None comes from a request.
LABELS = {
    "model": "the registered model, one",
    "version": "versions that served since the start of the process",
    "arm": "arms of the rollout document",
    "action": "approve, review, decline",
    "label": "fraud, genuine",
    "verdict": "fraud, genuine",
    "objective": "p95, p99",
    "route": "path templates of the API",
    "status": "HTTP statuses that the API answers with",
    "stage": "decode, queue, find, state, model, log",
    "key": f"names of API keys, {MOST_KEYS} at most; requests of others count as `{OTHER}`",
    "reason": "named in the code",
    "dependency": "online_store, decision_log, registry, model_server, redis",
    "state": "used, limit",
    "outcome": "named in the code",
    "kind": "names of errors",
    "check": "guardrails",
    "topic": "transactions, labels",
    "partition": "partitions of these topics",
    "what": "assigned, revoked, lost",
    # not "job": Prometheus calls its own targets so
    "task": "drift, performance, keys, certificates, replicas, backup",
    "feature": f"inputs and attributes of the project, those that drifted most, {MOST_FEATURES} at most",
    "quantile": "0.5, 0.9",
    "replica": "replicas of the database",
    "file": "certificates named in settings",
}


def counter(name: str, registry: CollectorRegistry) -> Counter:
    """The counter of this name, in a registry.

    >>> counter("fraud_late_total", CollectorRegistry()).inc()
    """
    metric = _of(name, Kind.counter)
    return Counter(name.removesuffix("_total"), metric.help, metric.labels, registry=registry)


def gauge(name: str, registry: CollectorRegistry) -> Gauge:
    """The gauge of this name, in a registry."""
    metric = _of(name, Kind.gauge)
    return Gauge(name, metric.help, metric.labels, registry=registry)


def histogram(name: str, registry: CollectorRegistry) -> Histogram:
    """The histogram of this name, in a registry."""
    metric = _of(name, Kind.histogram)
    return Histogram(name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)


class Bounded:
    """At most so many values of a label; those that come later are :data:`OTHER`.

    >>> name = Bounded(2)
    >>> [name(value) for value in ("a", "b", "c", "a")]
    ['a', 'b', 'other', 'a']
    """

    def __init__(self, most: int, known: Iterable[str] = ()) -> None:
        self._most = most
        self._known = set(known)

    def __call__(self, value: str) -> str:
        """The value, or what it counts as."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value


def _of(name: str, kind: Kind) -> Metric:
    metric = CATALOGUE[name]
    if metric.kind is not kind:
        raise ValueError(f"{name} is a {metric.kind}")
    return metric
