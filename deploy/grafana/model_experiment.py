"""Model and experiment: what serves, what it answers, and how a challenger compares."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import GREEN, RED, Query, Text, board, heat, lines, number, rising, rows
from deploy.grafana.promql import increase, newest, none_is_zero, of, quantile, rate, share, total

VERSION = 'version=~"$version"'


def decided(action: str) -> str:
    """The share of each arm's decisions that were this action."""
    some = rate("fraud_decisions_total", VERSION, f'action="{action}"', by="arm")
    return share(some, rate("fraud_decisions_total", VERSION, by="arm"))


SERVING = [
    rows(
        Text(
            "Which version is champion?",
            "Two versions for longer than a minute: some processes have not followed. See swaps, below.",
            "ModelRefused",
        ),
        "none",
        Query(f"count by (model, version) ({of('fraud_model_info')} == 1)"),
        value="processes",
    ),
    rows(
        Text("How old is each model?", "Older than the fraud it has to find: retrain.", "ModelOld"),
        "s",
        Query(f"time() - max by (version) ({of('fraud_bundle_trained_timestamp_seconds', VERSION)})"),
        value="age",
        limits=(30 * 86_400, 60 * 86_400),
    ),
    rows(
        Text(
            "Who decides on how many?",
            "Share of all entities by version and arm, as the rollout document says. Other shares than you set: "
            "processes follow within some five seconds.",
        ),
        "percentunit",
        Query(f"max by (version, arm) ({of('fraud_rollout_share', VERSION)})"),
        value="share",
    ),
]

ANSWERS = [
    lines(
        Text("Decisions by version", "The share of a canary should be as set; none at all: it was ended."),
        "short",
        Query(rate("fraud_decisions_total", VERSION, by="version, arm"), "{{version}} {{arm}} a second"),
        stacked=True,
    ),
    lines(
        Text(
            "Declined, by arm",
            "Arms see the same customers by chance, so a gap that stays is the model's.",
            "CanaryBreached",
        ),
        "percentunit",
        Query(
            decided("decline"),
            "{{arm}}",
        ),
    ),
    lines(
        Text("Sent to review, by arm", "More than analysts can take: choose thresholds again.", "CanaryBreached"),
        "percentunit",
        Query(
            decided("review"),
            "{{arm}}",
        ),
    ),
    heat(
        Text("Scores", "A new band, or one that is gone, is drift or a new model: see the marks.", "ScoreDrifts"),
        "none",
        Query(rate("fraud_score_bucket", VERSION, by="le"), "{{le}}"),
        span=12,
    ),
    lines(
        Text("Median and high scores, by version", "Versions that differ need other thresholds.", "ScoreDrifts"),
        "none",
        Query(quantile(0.5, "fraud_score", VERSION, by="version"), "{{version}} median"),
        Query(quantile(0.99, "fraud_score", VERSION, by="version"), "{{version}} p99"),
        span=12,
    ),
]

EXPERIMENT = [
    number(
        Text(
            "Was the rollout ended by a guardrail?",
            "It was: the champion decides on everything again. Read fraudml rollout history before the next try.",
            "CanaryBreached",
        ),
        "none",
        Query(f"max({of('fraud_rollout_breached')})"),
        span=6,
        steps=rising(1),
        words={"0": ("no", GREEN), "1": ("yes", RED)},
    ),
    number(
        Text("How far behind are guardrails?", "Over a minute: a bad challenger is not stopped in time.", "JudgeLags"),
        "s",
        Query(f"max({of('fraud_rollout_judge_lag_seconds')})"),
        span=6,
        steps=rising(10, 60),
    ),
    number(
        Text(
            "Actions that a shadow would change",
            "Share of decisions for which the challenger would act otherwise. High is no fault: look at which.",
        ),
        "percentunit",
        Query(
            share(
                none_is_zero(rate("fraud_shadow_total", 'outcome="flipped"', over="1h")),
                rate("fraud_shadow_total", 'outcome="scored"', over="1h"),
            )
        ),
        span=6,
    ),
    number(
        Text("Models refused in 24 hours", "A promoted model does not serve: the log says why.", "ModelRefused"),
        "none",
        Query(none_is_zero(increase("fraud_model_swaps_total", 'outcome="refused"', over="24h"))),
        span=6,
        steps=rising(1),
    ),
    lines(
        Text("Decisions in the shadow", "Dropped for long: the challenger is too slow for this machine.", "ModelFails"),
        "short",
        Query(rate("fraud_shadow_total", by="outcome"), "{{outcome}} a second"),
    ),
    lines(
        Text("Rollouts ended, by guardrail", "The same one again: fix that before the next try.", "CanaryBreached"),
        "none",
        Query(f"sum by (check) ({of('fraud_rollout_breaches_total')})", "{{check}}"),
    ),
    lines(
        Text("Newer models found", "Refused: its bundle is broken or does not fit the features.", "ModelRefused"),
        "none",
        Query(f"sum by (outcome) ({of('fraud_model_swaps_total')})", "{{outcome}}"),
    ),
]

PERFORMANCE = [
    number(
        Text("ROC AUC", "On mature labels. Compare with that of training: fraudml models list."),
        "short",
        Query(newest("fraud_roc_auc")),
        span=6,
    ),
    number(
        Text("PR AUC", "Average precision on mature labels. Compare with that of training: fraudml models list."),
        "short",
        Query(newest("fraud_pr_auc")),
        span=6,
    ),
    lines(
        Text(
            "Detection rate with its 95 % interval",
            "Corrected for labels that are not in yet. Fallen below the older interval: retrain.",
            "DetectionRateFalls",
        ),
        "percentunit",
        Query(newest("fraud_detection_rate_low"), "low"),
        Query(newest("fraud_detection_rate"), "detection rate"),
        Query(newest("fraud_detection_rate_high"), "high"),
        span=6,
    ),
    lines(
        Text(
            "Precision with its 95 % interval",
            "Falling: more genuine customers are stopped for each fraud. Raise thresholds or retrain.",
            "DetectionRateFalls",
        ),
        "percentunit",
        Query(newest("fraud_precision_low"), "low"),
        Query(newest("fraud_precision"), "precision"),
        Query(newest("fraud_precision_high"), "high"),
        span=6,
    ),
    lines(
        Text("Time of the model", "A model that is slower than the last one: compress it, or use a cascade."),
        "s",
        Query(quantile(0.5, "fraud_stage_seconds", 'stage="model"'), "p50 of a batch"),
        Query(quantile(0.99, "fraud_stage_seconds", 'stage="model"'), "p99 of a batch"),
        span=12,
    ),
    lines(
        Text("How many decide on each arm?", "Processes that know an arm. Fewer than there are: see swaps.", None),
        "none",
        Query(f"count by (version, arm) ({of('fraud_rollout_share', VERSION)})", "{{version}} {{arm}}"),
        Query(total("fraud_model_info"), "processes"),
        span=12,
    ),
]


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "fraudml-model",
        "Model and experiment",
        "What serves, what it answers, and how a challenger compares.",
        [
            ("What serves", SERVING),
            ("What it answers", ANSWERS),
            ("Challengers", EXPERIMENT),
            ("How good it is", PERFORMANCE),
        ],
        by_version=True,
    )
