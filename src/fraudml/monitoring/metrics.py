"""Every metric of a scoring process, by name: the one place to look them up (and what docs and dashboards use).

======================================== ========= ============================================================
metric                                   labels    meaning
======================================== ========= ============================================================
``fraud_predictions_total``              model,    transactions decided by this process, by model version and
                                         label     by action (approve, review, decline); retries of a known id
                                                   count too: each is an answer
``fraud_prediction_latency_seconds``     route     from the request's arrival to its answer, for requests that
                                                   were answered with decisions
``fraud_stage_seconds``                  stage     per batch: ``decode`` its first request and that one's wait in the
                                                   ``queue``, ``find`` known ids, read ``state``, run the ``model``,
                                                   commit to the ``log``
``fraud_batch_transactions``                       transactions decided together
``fraud_shed_total``                     reason    requests turned away with 503: the queue was full, or the deadline
                                                   passed
``fraud_journal_decisions``                        decisions in the local journal that the log does not have yet
``fraud_log_up``                                   0 while decisions go to the journal
``fraud_late_total``                               decisions on events older than the newest of their entities
``fraud_degraded_total``                 reason    decisions made without a dependency (online_store, model,
                                                   decision_log, registry, model_server)
``fraud_rejected_total``                 reason    transactions refused (invalid, conflict)
``fraud_labels_total``                   outcome   label reports: recorded, unchanged (a repeat) or failed
``fraud_http_requests_total``            route,    requests by path template and status
                                         status
``fraud_errors_total``                   kind      requests that failed on our side, by kind of error
``fraud_model_info``                     model     1 for the model version that serves as champion
``fraud_rollout_share``                  model,    share of all entities that each model decides on, or sees in the
                                         arm       shadow
``fraud_rollout_breaches_total``         check     rollouts that this process has ended because a guardrail was breached
                                                   (errors, latency, scores, decline_rate, review_rate, cost), or a
                                                   challenger could not be served (unservable)
``fraud_rollout_breached``                         1 from such an end until the next rollout starts: alert on it
``fraud_rollout_judge_lag_seconds``                age of the last decision that guardrails have seen, while they have
                                                   not seen all or cannot read the log; 0 when they have seen all
``fraud_shadow_total``                   outcome   decisions that challengers scored in the shadow: scored, and of these
                                                   flipped (another action) and failed; dropped for want of time;
                                                   unlogged
``fraud_model_swaps_total``              outcome   newer models found while serving: swapped, or refused
``fraud_registry_up``                              0 while the registry does not answer and the loaded model serves on
``fraud_model_server_up``                          0 while the local copy scores in the model server's place
``fraud_cache_total``                    outcome   look-ups of a score in the prediction cache: hit, miss, error
``fraud_recent_total``                   outcome   decisions in Redis, for retries at other processes: shared, dropped;
                                                   looked up while the log may lack them: found, error
``fraud_redis_up``                                 0 while Redis does not answer: no prediction cache, decisions of
                                                   other processes and their rates unknown
======================================== ========= ============================================================
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fraudml.decisions.lineup import Lineup
from fraudml.decisions.record import Decision
from fraudml.errors import ConflictError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGE_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 500, 1_000, 5_000, 10_000)


class Metrics:
    """The metrics of one process, in a registry of their own. Safe for use by several threads.

    >>> metrics = Metrics()
    >>> metrics.stage("log", 0.0001)
    >>> 'fraud_stage_seconds_count{stage="log"} 1.0' in metrics.text().decode()
    True
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.collector = registry
        self._children: dict[tuple[Any, ...], Any] = {}
        self._predictions = Counter(
            "fraud_predictions",
            "Transactions decided, by model version and action.",
            ["model", "label"],
            registry=registry,
        )
        self._latency = Histogram(
            "fraud_prediction_latency_seconds",
            "From a request's arrival to its decisions.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage = Histogram(
            "fraud_stage_seconds",
            "Time of each stage of a batch: decode, queue (its first request), find, state, model, log.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "fraud_batch_transactions", "Transactions decided together.", buckets=_SIZES, registry=registry
        )
        self._late = Counter(
            "fraud_late", "Decisions on events older than the newest of their entities.", registry=registry
        )
        self._degraded = Counter(
            "fraud_degraded", "Decisions made without a dependency.", ["reason"], registry=registry
        )
        self._rejected = Counter(
            "fraud_rejected", "Transactions refused: invalid, conflict.", ["reason"], registry=registry
        )
        self._labels = Counter(
            "fraud_labels", "Label reports: recorded, unchanged, failed.", ["outcome"], registry=registry
        )
        self._requests = Counter(
            "fraud_http_requests",
            "Requests by path template and status.",
            ["route", "status"],
            registry=registry,
        )
        self._errors = Counter(
            "fraud_errors",
            "Requests that failed on our side, by kind of error.",
            ["kind"],
            registry=registry,
        )
        self._shed = Counter("fraud_shed", "Requests turned away: queue_full, deadline.", ["reason"], registry=registry)
        self._journal = Gauge(
            "fraud_journal_decisions", "Decisions in the journal that the log lacks.", registry=registry
        )
        self._log_up = Gauge("fraud_log_up", "0 while decisions go to the journal.", registry=registry)
        self._log_up.set(1)
        self._swaps = Counter(
            "fraud_model_swaps", "Newer models found while serving: swapped, refused.", ["outcome"], registry=registry
        )
        self._registry_up = Gauge("fraud_registry_up", "0 while the registry does not answer.", registry=registry)
        self._registry_up.set(1)
        self._model_server_up = Gauge(
            "fraud_model_server_up", "0 while the local copy scores in the model server's place.", registry=registry
        )
        self._model_server_up.set(1)
        self._cache = Counter(
            "fraud_cache", "Look-ups in the prediction cache: hit, miss, error.", ["outcome"], registry=registry
        )
        self._recent = Counter(
            "fraud_recent",
            "Decisions in Redis: shared, dropped, found, error.",
            ["outcome"],
            registry=registry,
        )
        self._redis_up = Gauge("fraud_redis_up", "0 while Redis does not answer.", registry=registry)
        self._redis_up.set(1)
        self._model = Gauge("fraud_model_info", "1 for the model version that serves.", ["model"], registry=registry)
        self._share = Gauge(
            "fraud_rollout_share", "Share of all entities that a model decides on.", ["model", "arm"], registry=registry
        )
        self._breaches = Counter(
            "fraud_rollout_breaches", "Rollouts ended by a guardrail, by check.", ["check"], registry=registry
        )
        self._breached = Gauge("fraud_rollout_breached", "1 after a breach, until a rollout starts.", registry=registry)
        self._judge_lag = Gauge(
            "fraud_rollout_judge_lag_seconds",
            "How far behind guardrails are; 0: they have seen all.",
            registry=registry,
        )
        self._shadow = Counter(
            "fraud_shadow",
            "Decisions in the shadow: scored, flipped, failed, dropped, unlogged.",
            ["outcome"],
            registry=registry,
        )

    def answered(self, route: str, seconds: float) -> None:
        """A request was answered with decisions after so many seconds."""
        self._child(self._latency, route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage took so long."""
        self._child(self._stage, stage).observe(seconds)

    def batch(self, outcomes: Iterable[Decision | ConflictError], stages: Mapping[str, float]) -> None:
        """These were decided together, for answers; ``stages``: seconds that the first of them spent in each stage.

        Stages of the whole batch are told by :meth:`stage`.
        """
        count = 0
        kinds: Counts[tuple[str, str]] = Counts()
        for outcome in outcomes:
            count += 1
            if isinstance(outcome, ConflictError):
                continue
            kinds[outcome.model_version, outcome.action.value] += 1
            if outcome.late:
                self._late.inc()
            for reason in outcome.degraded:
                self._child(self._degraded, reason.value).inc()
        for (model, action), number in kinds.items():
            self._child(self._predictions, model, action).inc(number)
        self._batch.observe(count)
        for stage in ("decode", "queue"):
            if stage in stages:
                self.stage(stage, stages[stage])

    def shed(self, reason: str) -> None:
        """A request was turned away."""
        self._shed.labels(reason).inc()

    def watch_journal(self, count: Callable[[], int], degraded: Callable[[], bool]) -> None:
        """Ask these when the metrics are read."""
        self._journal.set_function(count)
        self._log_up.set_function(lambda: 0 if degraded() else 1)

    def watch_redis(self, up: Callable[[], bool]) -> None:
        """Ask this when the metrics are read."""
        self._redis_up.set_function(lambda: 1 if up() else 0)

    def watch_model_server(self, up: Callable[[], bool]) -> None:
        """Ask this when the metrics are read."""
        self._model_server_up.set_function(lambda: 1 if up() else 0)

    def rejected(self, reason: str, count: int = 1) -> None:
        """Transactions were refused."""
        self._rejected.labels(reason).inc(count)

    def labels(self, outcome: str, count: int) -> None:
        """Label reports were handled."""
        self._labels.labels(outcome).inc(count)

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._child(self._requests, route, str(status)).inc()

    def error(self, kind: str) -> None:
        """A request failed on our side."""
        self._errors.labels(kind).inc()

    def serve(self, lineup: Lineup) -> None:
        """These models serve from now on."""
        self._model.clear()
        self._model.labels(lineup.version).set(1)
        self._share.clear()
        for version, arm, share in lineup.shares:
            self._share.labels(version, arm).set(share)

    def watch_judge(self, lag_s: Callable[[], float]) -> None:
        """Ask this when the metrics are read."""
        self._judge_lag.set_function(lag_s)

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

    def registry(self, is_up: bool) -> None:
        """Whether the registry answered."""
        self._registry_up.set(is_up)

    def cache(self, outcome: str, count: int) -> None:
        """So many scores were looked up in the prediction cache: hit, miss or error."""
        self._child(self._cache, outcome).inc(count)

    def recent(self, outcome: str, count: int) -> None:
        """So many decisions were shared or dropped; or looked up: found, or error."""
        self._child(self._recent, outcome).inc(count)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self.collector)

    def _child(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels, kept at hand: looking it up takes longer than counting."""
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child
