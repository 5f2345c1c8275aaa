"""The metrics of a process that scores; :mod:`fraudml.monitoring.catalogue` has their names and what they mean.

Counting is on the way of every request, so what it costs is measured (docs/concepts/hot-path.md). Reading them waits
for nothing: what is asked when they are read are numbers that somebody keeps anyway.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from fraudml.decisions.lineup import Lineup
from fraudml.decisions.record import Action, Decision
from fraudml.errors import ConflictError
from fraudml.monitoring.catalogue import CATALOGUE, MOST_KEYS, Bounded, counter, gauge
from fraudml.monitoring.tally import CounterTally, HistogramTally
from fraudml.monitoring.told import Told

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TAIL = 2  # so many times the objective is what 99 of 100 requests are to be answered within


class Objective(NamedTuple):
    """``seconds``: what 95 of 100 requests are to be answered within. ``cost_per_hour``: of this process, if known."""

    seconds: float = 0.1
    cost_per_hour: float | None = None


DEFAULT = Objective()


class Metrics:
    """The metrics of one process, in a registry of their own. Safe for use by several threads.

    ``model``: the registered model's name.

    >>> metrics = Metrics()
    >>> metrics.stage("log", 0.0001)
    >>> 'fraud_stage_seconds_count{stage="log"} 1.0' in metrics.text().decode()
    True
    """

    def __init__(self, model: str = "fraud", objective: Objective = DEFAULT) -> None:
        self.collector = registry = CollectorRegistry()
        self._model_name = model
        self._objective_s = objective.seconds
        self._key = Bounded(MOST_KEYS)
        self._decisions = CounterTally("fraud_decisions_total", registry)
        registry.register(_Predictions(model, self._decisions))
        self._latency = HistogramTally("fraud_prediction_latency_seconds", registry)
        self._slow = counter("fraud_slow_requests_total", registry)
        gauge("fraud_latency_objective_seconds", registry).set(objective.seconds)
        self._stage = HistogramTally("fraud_stage_seconds", registry)
        self._batch = HistogramTally("fraud_batch_transactions", registry)
        self._score = HistogramTally("fraud_score", registry)
        self._shed = counter("fraud_shed_total", registry)
        self._late = counter("fraud_late_total", registry)
        self._degraded = CounterTally("fraud_degraded_total", registry)
        self._rejected = counter("fraud_rejected_total", registry)
        self._labels = counter("fraud_labels_total", registry)
        self._verdicts = counter("fraud_label_reports_total", registry)
        self._requests = CounterTally("fraud_http_requests_total", registry)
        self._keys = CounterTally("fraud_api_key_requests_total", registry)
        self._errors = counter("fraud_errors_total", registry)
        self._model = gauge("fraud_model_info", registry)
        self._trained = gauge("fraud_bundle_trained_timestamp_seconds", registry)
        self._share = gauge("fraud_rollout_share", registry)
        self._breaches = counter("fraud_rollout_breaches_total", registry)
        self._breached = gauge("fraud_rollout_breached", registry)
        self._shadow = counter("fraud_shadow_total", registry)
        self._swaps = counter("fraud_model_swaps_total", registry)
        self._cache = counter("fraud_cache_total", registry)
        self._recent = counter("fraud_recent_total", registry)
        self._up = gauge("fraud_dependency_up", registry)
        self._told = Told()
        self._told.add("fraud_rollout_judge_lag_seconds", lambda: 0.0)
        if objective.cost_per_hour is not None:
            gauge("fraud_cost_per_hour", registry).set(objective.cost_per_hour)
        # A series that begins at 1 has no increase: what alerts count begins at 0, so that the first time is seen, too.
        for name in ("p95", "p99"):
            self._slow.labels(name)
        for name in ("swapped", "refused"):
            self._swaps.labels(name)
        registry.register(self._told)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def answered(self, route: str, seconds: float) -> None:
        """A request was answered with decisions after so many seconds."""
        self._latency.observe((route,), seconds)
        if seconds > self._objective_s:
            self._slow.labels("p95").inc()
            if seconds > TAIL * self._objective_s:
                self._slow.labels("p99").inc()

    def stage(self, stage: str, seconds: float) -> None:
        """A stage took so long."""
        self._stage.observe((stage,), seconds)

    def batch(self, outcomes: Sequence[Decision | ConflictError], stages: Mapping[str, float]) -> None:
        """These were decided together, for answers; ``stages``: seconds that the first of them spent in each stage.

        Stages of the whole batch are told by :meth:`stage`.
        """
        model, kinds, late = self._model_name, [], 0
        for outcome in outcomes:
            if isinstance(outcome, ConflictError):
                continue
            version = outcome.model_version
            kinds.append((model, version, outcome.arm, outcome.action._value_))
            if outcome.score is not None:
                self._score.observe((version,), outcome.score)
            late += outcome.late
            if outcome.degraded:
                self._degraded.extend((reason.value,) for reason in outcome.degraded)
        self._decisions.extend(kinds)
        if late:
            self._late.inc(late)
        self._batch.observe((), len(outcomes))
        for stage in ("decode", "queue"):
            if stage in stages:
                self.stage(stage, stages[stage])

    def shed(self, reason: str) -> None:
        """A request was turned away."""
        self._shed.labels(reason).inc()

    def watch(self, name: str, value: Callable[[], float], **labels: str) -> None:
        """Ask this for a gauge when the metrics are read; it has to answer at once."""
        self._told.add(name, value, **labels)

    def watch_dependency(self, name: str, up: Callable[[], bool]) -> None:
        """Ask this when the metrics are read: whether decisions are made with it."""
        self._up.labels(name).set_function(lambda: 1 if up() else 0)

    def rejected(self, reason: str, count: int = 1) -> None:
        """Transactions were refused."""
        self._rejected.labels(reason).inc(count)

    def labels(self, outcome: str, count: int) -> None:
        """Label reports were handled."""
        self._labels.labels(outcome).inc(count)

    def reported(self, is_fraud: bool, count: int = 1) -> None:
        """Label reports were recorded."""
        self._verdicts.labels("fraud" if is_fraud else "genuine").inc(count)

    def request(self, route: str, status: int, key: str | None = None) -> None:
        """A request was answered; ``key``: the name of its API key."""
        self._requests.add((route, str(status)))
        if key is not None:
            self._keys.add((self._key(key),))

    def error(self, kind: str) -> None:
        """A request failed on our side."""
        self._errors.labels(kind).inc()

    def serve(self, lineup: Lineup) -> None:
        """These models serve from now on."""
        self._model.clear()
        self._model.labels(self._model_name, lineup.version).set(1)
        self._trained.clear()
        for model in lineup.models:
            made = datetime.fromisoformat(model.bundle.manifest.created_at)
            self._trained.labels(model.version).set(made.timestamp())
        self._share.clear()
        for version, arm, share in lineup.shares:
            self._share.labels(version, arm).set(share)

    def judging(self) -> None:
        """A rollout with guardrails is under way."""
        self._breached.set(0)

    def breached(self, check: str) -> None:
        """A rollout was ended by this check."""
        self._breaches.labels(check).inc()
        self._breached.set(1)

    def shadow(self, outcome: str, count: int) -> None:
        """So many decisions were scored in the shadow, or dropped."""
        if count:
            self._shadow.labels(outcome).inc(count)

    def swap(self, outcome: str) -> None:
        """A newer model was found: swapped or refused."""
        self._swaps.labels(outcome).inc()

    def cache(self, outcome: str, count: int) -> None:
        """So many scores were looked up in the prediction cache: hit, miss or error."""
        self._cache.labels(outcome).inc(count)

    def recent(self, outcome: str, count: int) -> None:
        """So many decisions were shared or dropped; or looked up: found, or error."""
        self._recent.labels(outcome).inc(count)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self.collector)


class _Predictions(Collector):
    """What was predicted, counted from the decisions: they are counted once."""

    def __init__(self, model: str, decisions: CounterTally) -> None:
        self._model = model
        self._decisions = decisions

    def collect(self) -> Iterator[CounterMetricFamily]:
        """By label."""
        labels: Counts[str] = Counts()
        for (*_, action), count in self._decisions.counts().items():
            labels["genuine" if action == Action.approve else "fraud"] += count
        metric = CATALOGUE["fraud_predictions_total"]
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for label, count in labels.items():
            family.add_metric((self._model, label), count)
        yield family
