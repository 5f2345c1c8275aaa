"""Fraud overview: did fraud, data, model or machine change? The first page to open, for whoever is on call."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import GREEN, ORANGE, Query, Text, board, lines, number, rising
from deploy.grafana.promql import increase, newest, none_is_zero, of, quantile, rate, share

FLAGGED = 'label="fraud"'
OF_CLIENTS = 'route=~"/v[12]/.+"'  # probes and scrapes are none
FAILED = 'status=~"5.."'
NO = {"0": ("no", GREEN)}


def flagged(over: str, ago: str = "") -> str:
    """The share of transactions that were reviewed or declined in a time, now or so long ago."""
    frauds = none_is_zero(increase("fraud_predictions_total", FLAGGED, over=over, ago=ago))
    return share(frauds, increase("fraud_predictions_total", over=over, ago=ago))


def failed(over: str = "$__rate_interval") -> str:
    """The share of requests that failed on our side."""
    failures = none_is_zero(rate("fraud_http_requests_total", OF_CLIENTS, FAILED, over=over))
    return share(failures, rate("fraud_http_requests_total", OF_CLIENTS, over=over))


def slow(objective: str, over: str = "$__rate_interval") -> str:
    """The share of answers that came later than an objective."""
    late = none_is_zero(rate("fraud_slow_requests_total", f'objective="{objective}"', over=over))
    return share(late, rate("fraud_prediction_latency_seconds_count", over=over))


ANSWERS = [
    number(
        Text(
            "Did fraud change?",
            "Share of transactions flagged in the last hour, divided by that of the last seven days. Far from 1 with "
            "green data and model is fraud, or its end: ask the analysts.",
            "FraudRateHigh",
        ),
        "suffix: times",
        Query(f"({flagged('1h')}) / ({flagged('7d')} > 0)"),
        span=6,
        steps=rising(1.5, 2),
    ),
    number(
        Text(
            "Did the data change?",
            "Features that are distributed otherwise than in their reference. Open Data and drift: a sender that "
            "changed explains many at once.",
            "FeatureDrifts",
        ),
        "suffix: features",
        Query(newest("fraud_drifted_features")),
        span=6,
        steps=rising(1, 3),
        words=NO,
    ),
    number(
        Text(
            "Did the model change?",
            "Champions that came in the last 24 hours. If the trouble began with one, roll back first and look later.",
            "CanaryBreached",
        ),
        "suffix: changes",
        Query(f"count(count by (version) (max_over_time({of('fraud_model_info')}[24h]))) - 1"),
        span=6,
        steps=rising(1),
        words=NO | {"1": ("once", ORANGE)},
    ),
    number(
        Text(
            "Did the machine change?",
            "How many of these are so: a dependency is gone, over 1 % of requests fail, over 5 % are slower than the "
            "objective. Look at the rows Requests and Machine.",
            "Degraded",
        ),
        "suffix: of 3",
        Query(
            f"(min({of('fraud_dependency_up')}) < bool 1)"
            f" + {none_is_zero(failed('5m') + ' > bool 0.01')} + {none_is_zero(slow('p95', '5m') + ' > bool 0.05')}"
        ),
        span=6,
        steps=rising(1, 2),
        words=NO,
    ),
]

TODAY = [
    number(
        Text("Predictions in 24 hours", "Nothing at all: clients do not reach the service.", "NoTraffic"),
        "short",
        Query(increase("fraud_predictions_total", over="24h")),
    ),
    number(
        Text(
            "Fraud rate in 24 hours",
            "Share of transactions reviewed or declined. Compare with the share that is fraud, below.",
            "FraudRateHigh",
        ),
        "percentunit",
        Query(flagged("24h")),
    ),
    number(
        Text("Predictions a second", "Falls to 0: see whether clients are gone or requests fail.", "NoTraffic"),
        "short",
        Query(rate("fraud_predictions_total")),
    ),
    number(
        Text("Error rate", "Share of requests answered 5xx. The errors' kinds are below.", "ErrorBudgetBurnsFast"),
        "percentunit",
        Query(failed()),
        steps=rising(0.001, 0.01),
    ),
    number(
        Text("Latency p95", "Compare with the objective, below.", "LatencyBudgetBurnsFast"),
        "s",
        Query(quantile(0.95, "fraud_prediction_latency_seconds")),
    ),
    number(
        Text(
            "Detection rate",
            "Share of frauds that were stopped, corrected for labels that are not in yet.",
            "DetectionRateFalls",
        ),
        "percentunit",
        Query(newest("fraud_detection_rate")),
    ),
]

FRAUD = [
    lines(
        Text(
            "Fraud rate",
            "Flagged far above what is confirmed: genuine customers are stopped. Below: frauds pass. The week before "
            "shows what is usual at this hour.",
            "FraudRateHigh",
        ),
        "percentunit",
        Query(flagged("1h"), "flagged"),
        Query(flagged("1h", ago="1w"), "flagged, a week before"),
        Query(newest("fraud_confirmed_rate"), "fraud, estimated from labels"),
        span=12,
    ),
    lines(
        Text("Decisions by action", "A step in the shares at a purple mark comes from the new model.", "FraudRateLow"),
        "short",
        Query(rate("fraud_decisions_total", by="action"), "{{action}} a second"),
        span=6,
        stacked=True,
    ),
    lines(
        Text(
            "Money a day",
            "Loss by frauds that passed, and cost of genuine customers declined. Both up: the thresholds do not fit; "
            "choose them again by cost.",
            "DetectionRateFalls",
        ),
        "short",
        Query(newest("fraud_loss_per_day"), "fraud loss"),
        Query(newest("fraud_false_decline_cost_per_day"), "false declines"),
        span=6,
    ),
]

PERFORMANCE = [
    lines(
        Text(
            "ROC AUC and PR AUC on mature labels",
            "Falling for weeks: retrain. Falling at once: look at data first. They lag behind by the labels' delay.",
            "DetectionRateFalls",
        ),
        "short",
        Query(newest("fraud_roc_auc"), "ROC AUC"),
        Query(newest("fraud_pr_auc"), "PR AUC"),
    ),
    lines(
        Text(
            "Detection rate and precision",
            "Trust a change only where the intervals do not overlap. Detection rate down and precision up: the "
            "threshold is too high, or scores moved.",
            "DetectionRateFalls",
        ),
        "percentunit",
        Query(newest("fraud_detection_rate"), "detection rate"),
        Query(newest("fraud_detection_rate_low"), "detection rate, low"),
        Query(newest("fraud_detection_rate_high"), "detection rate, high"),
        Query(newest("fraud_precision"), "precision"),
    ),
    lines(
        Text(
            "Label maturity",
            "Share of the window's frauds that are reported by now. While it is low the figures beside rest on "
            "estimates; if it falls, reports come later or not at all.",
            "LabelsLate",
        ),
        "percentunit",
        Query(newest("fraud_label_maturity"), "reported by now"),
    ),
]

REQUESTS = [
    lines(
        Text(
            "Latency",
            "Above the objective: see which stage grew on Capacity and cost. All stages: the machine is full.",
            "LatencyBudgetBurnsFast",
        ),
        "s",
        Query(quantile(0.5, "fraud_prediction_latency_seconds"), "p50"),
        Query(quantile(0.95, "fraud_prediction_latency_seconds"), "p95"),
        Query(quantile(0.99, "fraud_prediction_latency_seconds"), "p99"),
        Query(f"max({of('fraud_latency_objective_seconds')})", "objective of p95"),
        span=12,
    ),
    lines(
        Text(
            "Slow requests",
            "Share of answers later than the objective, of which 5 % may be (p95), and later than twice that, 1 %.",
            "LatencyTailBurnsFast",
        ),
        "percentunit",
        Query(slow("p95"), "later than the objective"),
        Query(slow("p99"), "later than twice the objective"),
        span=6,
        limits=(0.05,),
    ),
    lines(
        Text(
            "Error rate over time",
            "503 under load is shedding; others are defects or a backend.",
            "ErrorBudgetBurnsSlowly",
        ),
        "percentunit",
        Query(failed(), "5xx"),
        span=6,
        limits=(0.001, 0.01),
    ),
    lines(
        Text("Requests by status", "4xx that jump: a client changed its requests.", "TransactionsRejected"),
        "reqps",
        Query(rate("fraud_http_requests_total", by="status"), "{{status}}"),
        stacked=True,
    ),
    lines(
        Text("Errors by kind", "The kind names what failed; docs/reference/errors.md explains it.", "ModelFails"),
        "short",
        Query(rate("fraud_errors_total", by="kind"), "{{kind}} a second"),
    ),
    lines(
        Text(
            "API-key usage",
            "Requests by the name of their key. A key that falls silent is a client that is down; one that doubles is "
            "a client that repeats, or a stolen key.",
            "NoTraffic",
        ),
        "reqps",
        Query(f"topk(10, {rate('fraud_api_key_requests_total', by='key')})", "{{key}}"),
    ),
]

MACHINE = [
    lines(
        Text("CPU", "Near one core a process is full: add processes.", "LatencyBudgetBurnsFast"),
        "percentunit",
        Query(f"rate({of('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
        limits=(0.8, 0.95),
    ),
    lines(
        Text(
            "Memory", "Growing for days without more traffic is a defect: report it, and restart processes one by one."
        ),
        "bytes",
        Query(of("process_resident_memory_bytes"), "{{instance}}"),
    ),
    lines(
        Text("Which dependencies are up?", "0: decisions are made without it. Bring it back first.", "Degraded"),
        "none",
        Query(f"min by (dependency) ({of('fraud_dependency_up')})", "{{dependency}}"),
        span=4,
    ),
    lines(
        Text("Degraded decisions", "Made without a dependency; the reason says which.", "Degraded"),
        "short",
        Query(rate("fraud_degraded_total", by="reason"), "{{reason}} a second"),
        span=4,
    ),
]


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "fraudml-overview",
        "Fraud overview",
        "Did fraud, data, model or machine change? Open this first.",
        [
            ("Fraud, data, model or machine: what changed?", ANSWERS),
            ("Now", TODAY),
            ("Fraud", FRAUD),
            ("Model performance, as labels mature", PERFORMANCE),
            ("Requests", REQUESTS),
            ("Machine", MACHINE),
        ],
    )
