"""Every metric of a scoring process, by name: the one place to look them up (and what docs and dashboards use).

======================================== ========= ============================================================
metric                                   labels    meaning
======================================== ========= ============================================================
``fraud_predictions_total``              model,    transactions decided by this process, by model version and
                                         label     by action (approve, review, decline); retries of a known id
                                                   count too: each is an answer
``fraud_prediction_latency_seconds``     route     from the request's arrival to its answer, for requests that
                                                   were answered with decisions
``fraud_stage_seconds``                  stage     per batch: ``find`` known ids, read ``state``, run the
                                                   ``model``, commit to the ``log``
``fraud_batch_transactions``                       transactions per request
``fraud_late_total``                               decisions on events older than the newest of their entities
``fraud_degraded_total``                 reason    decisions made without a dependency (online_store, model)
``fraud_rejected_total``                 reason    transactions refused (invalid, conflict)
``fraud_labels_total``                   outcome   label reports: recorded, unchanged (a repeat) or failed
``fraud_http_requests_total``            route,    requests by path template and status
                                         status
``fraud_errors_total``                   kind      requests that failed on our side, by kind of error
``fraud_model_info``                     model     1 for the model version that serves
======================================== ========= ============================================================
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fraudml.decisions.record import Decision

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
        self._registry = registry
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
            "Time of each stage of scoring a batch: find, state, model, log.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "fraud_batch_transactions", "Transactions per request.", buckets=_SIZES, registry=registry
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
        self._model = Gauge("fraud_model_info", "1 for the model version that serves.", ["model"], registry=registry)

    def predictions(self, route: str, decisions: Iterable[Decision], seconds: float) -> None:
        """A request was answered with these decisions after so many seconds."""
        count = 0
        for decision in decisions:
            count += 1
            self._predictions.labels(decision.model_version, decision.action.value).inc()
            if decision.late:
                self._late.inc()
            for reason in decision.degraded:
                self._degraded.labels(reason.value).inc()
        self._batch.observe(count)
        self._latency.labels(route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of a batch took so long."""
        self._stage.labels(stage).observe(seconds)

    def rejected(self, reason: str, count: int = 1) -> None:
        """Transactions were refused."""
        self._rejected.labels(reason).inc(count)

    def labels(self, outcome: str, count: int) -> None:
        """Label reports were handled."""
        self._labels.labels(outcome).inc(count)

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()

    def error(self, kind: str) -> None:
        """A request failed on our side."""
        self._errors.labels(kind).inc()

    def serves(self, model: str) -> None:
        """This model version serves from now on."""
        self._model.clear()
        self._model.labels(model).set(1)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self._registry)
