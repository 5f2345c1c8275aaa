"""What a person or a machine sees of a run of ``fraudml retrain``."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from fraudml.cli import output
from fraudml.cli.retrain_run import Decision, Outcome
from fraudml.training.challenge import Comparison, Figures

NAMES = {
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "recall_at_fpr_0.01": "recall@1% FPR",
    "card_precision_at_100": "card precision@100",
    "calibration_error": "calibration error",
}
ENDS = {
    Decision.no_drift: "Nothing was trained: {reason}.",
    Decision.too_soon: "Nothing was trained: {reason}.",
    Decision.not_better: "Not better, and not registered: {reason}.",
    Decision.registered: "Version {version} is better and was registered: {reason}.",
    Decision.canary: "Version {version} is better and on trial as a canary: {reason}.",
    Decision.promoted: "Version {version} is better and was promoted: {reason}.",
}
NEXT = {
    Decision.registered: "Next: fraudml rollout start --challenger {version}",
    Decision.canary: "Next: fraudml rollout status",
}


def show(outcome: Outcome, as_json: bool) -> None:
    """Print the outcome."""
    if as_json:
        output.result(msgspec.to_builtins(outcome))
        return
    if outcome.comparison is not None:
        _show_comparison(outcome, outcome.comparison)
    said = {"reason": outcome.reason, "version": outcome.version}
    for line in (ENDS[outcome.decision], NEXT.get(outcome.decision)):
        if line:
            output.remarks.print(line.format(**said), markup=False)


def _show_comparison(outcome: Outcome, found: Comparison) -> None:
    pairs = [(words, name) for name, words in NAMES.items() if name in found.champion.metrics]
    both = (found.champion, found.challenger)
    rows = [[words, *(f"{each.metrics[name]:.4f}" for each in both)] for words, name in pairs]
    rows.append(["saved/day (95 %)", *map(_saved, both)])
    family = outcome.fitted.family if outcome.fitted else ""
    output.table(
        ["figure", f"champion, version {outcome.champion}", f"challenger, {family}"],
        rows,
        title=f"{_day(found.since_us)} to {_day(found.until_us - 1)}: {found.rows:,} transactions, "
        f"{found.frauds:,} frauds, that neither was trained on",
    )
    if found.unknown_declines:
        output.remarks.print(
            f"{found.unknown_declines:,} declined transactions of that time have no label and are in no figure, which "
            "flatters the challenger; let a few through: fraudml rollout set --explore 1%",
            style="yellow",
            markup=False,
        )


def _saved(figures: Figures) -> str:
    money = figures.money
    low, high = money["saved_per_day_low"], money["saved_per_day_high"]
    return f"{money['saved_per_day']:,.0f} ({low:,.0f} to {high:,.0f})"


def _day(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / 1e6, UTC).date().isoformat()
