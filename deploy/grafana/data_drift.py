"""Data and drift: is what comes in still what the model was trained on, and do labels arrive?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import GREEN, ORANGE, Query, Text, board, lines, number, rising, rows
from deploy.grafana.promql import newest, none_is_zero, rate, share

GLANCE = [
    number(
        Text("How many features drift?", "Many at once: a sender or a field changed. One: see the table."),
        "none",
        Query(newest("fraud_drifted_features")),
        steps=rising(1, 3),
    ),
    number(
        Text(
            "Have scores drifted?",
            "Without a new model it is the input. If features have not drifted, their combination has: retrain.",
            "ScoreDrifts",
        ),
        "none",
        Query(newest("fraud_drift_score_significant")),
        steps=rising(1),
        words={"0": ("no", GREEN), "1": ("yes", ORANGE)},
    ),
    number(
        Text("Traffic against the reference", "Far below 1: a client is missing. Above: new clients.", "NoTraffic"),
        "suffix: times",
        Query(newest("fraud_drift_volume_ratio")),
        steps=rising(2, 5),
    ),
    number(
        Text("Largest share of new values", "A category that the model does not know.", "NewCategories"),
        "percentunit",
        Query(newest("fraud_drift_new_category_share")),
        steps=rising(0.01, 0.05),
    ),
    number(
        Text("Time since the last label", "Far above what is usual: the sender of labels is down.", "LabelsStop"),
        "s",
        Query(newest("fraud_label_age_seconds")),
    ),
    number(
        Text(
            "Refused transactions", "Share with wrong fields or a known id with other content.", "TransactionsRejected"
        ),
        "percentunit",
        Query(
            share(
                none_is_zero(rate("fraud_rejected_total")),
                f"({none_is_zero(rate('fraud_rejected_total'))} + {rate('fraud_predictions_total')})",
            )
        ),
        steps=rising(0.01, 0.05),
    ),
]

DRIFT = [
    rows(
        Text(
            "Which features drift?",
            "Population stability index: below 0.1 nothing, above 0.25 much. Start with the largest that is important.",
            "FeatureDrifts",
        ),
        "none",
        Query(newest("fraud_drift_psi", by="feature")),
        value="PSI",
        limits=(0.1, 0.25),
    ),
    lines(
        Text("Drift over time", "A step is a change at the sender; a slope is the world.", "FeatureDrifts"),
        "none",
        Query(f"topk(10, {newest('fraud_drift_psi', by='feature')})", "{{feature}}"),
        limits=(0.1, 0.25),
    ),
    lines(
        Text("Drift of the score", "At a mark it is the new model; else see the features.", "ScoreDrifts"),
        "none",
        Query(newest("fraud_drift_score_psi"), "PSI of the score"),
        limits=(0.1, 0.25),
    ),
    rows(
        Text("Which are significant?", "1: more than chance explains, and enough to matter.", "FeatureDrifts"),
        "none",
        Query(newest("fraud_drift_significant", by="feature")),
        value="drifts",
        span=6,
        limits=(1,),
    ),
    lines(
        Text(
            "Missing values", "A field that clients stopped sending, or a store that does not answer.", "FeatureMissing"
        ),
        "percentunit",
        Query(newest("fraud_drift_missing_share", by="feature"), "{{feature}}"),
        span=6,
    ),
    lines(
        Text("Missing more than in the reference", "Above 5 points: find the sender.", "FeatureMissing"),
        "percentunit",
        Query(newest("fraud_drift_missing_change", by="feature"), "{{feature}}"),
        span=6,
        limits=(0.05,),
    ),
    lines(
        Text("New values of categories", "Add them to the vocabulary with the next training.", "NewCategories"),
        "percentunit",
        Query(newest("fraud_drift_new_category_share", by="feature"), "{{feature}}"),
        span=6,
        limits=(0.01,),
    ),
]

INPUT = [
    lines(
        Text("Refused transactions, by reason", "A jump of invalid: a client changed.", "TransactionsRejected"),
        "short",
        Query(rate("fraud_rejected_total", by="reason"), "{{reason}} a second"),
        span=12,
    ),
    lines(
        Text(
            "Late transactions", "Share older than the newest of their entities: see clocks and queues.", "EventsLate"
        ),
        "percentunit",
        Query(share(rate("fraud_late_total"), rate("fraud_predictions_total")), "late"),
        span=12,
        limits=(0.2,),
    ),
]

LABELS = [
    lines(
        Text("Label reports", "None for hours: the sender is down. Only genuine ones: ask the analysts.", "LabelsStop"),
        "short",
        Query(rate("fraud_label_reports_total", by="verdict", over="1h"), "{{verdict}} a second"),
    ),
    lines(
        Text("What became of label reports", "Failed: the log or the online store is gone.", "Degraded"),
        "short",
        Query(rate("fraud_labels_total", by="outcome", over="1h"), "{{outcome}} a second"),
    ),
    lines(
        Text("Frauds expected but not reported", "Reports to be expected since the last one came.", "LabelsStop"),
        "none",
        Query(newest("fraud_labels_expected"), "reports expected"),
        limits=(10,),
    ),
    lines(
        Text("From a fraud to its report", "Growing: performance is known later. Ask the analysts why.", "LabelsLate"),
        "s",
        Query(newest("fraud_label_delay_seconds", by="quantile"), "quantile {{quantile}}"),
    ),
    lines(
        Text("Which share is reported by now?", "Falling: reports come later than they did.", "LabelsLate"),
        "percentunit",
        Query(newest("fraud_label_maturity"), "of the window's frauds"),
    ),
    lines(
        Text("Time since the newest label report", "Rising in a straight line: nobody reports.", "LabelsStop"),
        "s",
        Query(newest("fraud_label_age_seconds"), "since the newest report"),
    ),
]

MONITOR = [
    lines(
        Text("When did the monitor last look?", "Growing: what this page shows is old.", "MonitorStale"),
        "s",
        Query("time() - " + newest("fraud_monitor_run_timestamp_seconds", by="task"), "{{task}}"),
        limits=(1_800,),
    ),
    lines(
        Text("Looks of the monitor that failed", "Its log says why.", "MonitorStale"),
        "none",
        Query("sum by (task) (increase(fraud_monitor_failures_total[1h]))", "{{task}} in an hour"),
    ),
    lines(
        Text("How long does a look take?", "Longer than its interval: set FRAUDML_MONITOR_EVERY_S higher."),
        "s",
        Query(newest("fraud_monitor_duration_seconds", by="task"), "{{task}}"),
    ),
]


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "fraudml-data",
        "Data and drift",
        "Is what comes in still what the model was trained on, and do labels arrive?",
        [
            ("At a glance", GLANCE),
            ("Drift", DRIFT),
            ("What comes in", INPUT),
            ("Labels", LABELS),
            ("The monitor itself", MONITOR),
        ],
    )
