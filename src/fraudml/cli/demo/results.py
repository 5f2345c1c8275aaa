"""What came out: detection and money on the live stretch by the project's own costs, and how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fraudml.cli import output
from fraudml.cli.demo.replay import Answers
from fraudml.cli.demo.workspace import LiveEvent
from fraudml.decisions.costs import Costs
from fraudml.decisions.record import Action
from fraudml.training import evaluate, money
from fraudml.training.dataset import Dataset

DAY_US = 86_400_000_000
REASONS_SHOWN = 5


def figures(stretch: Sequence[LiveEvent], answers: Answers, costs: Costs, decimals: int) -> dict[str, Any]:
    """The figures of the live stretch as the service decided it; ``stretch`` and ``answers`` in the same order.

    ``precision``: frauds among what was reviewed or declined; ``recall``: stopped among all frauds. Money is per
    day, against approving everything.
    """
    fraud = np.array([event.is_fraud for event in stretch])
    scores = np.nan_to_num(np.array(answers.scores), nan=0.0)
    level = np.array([list(Action).index(action) for action in answers.actions])
    data = _dataset(stretch)
    cost = money.outcomes(data, costs, decimals)
    spent = np.choose(level, [cost.approve, cost.review, cost.decline])
    days = max(1.0, (stretch[-1].event_time_us - stretch[0].event_time_us) / DAY_US)
    flagged, stopped = level > 0, (level > 0) & fraud
    ranking = evaluate.metrics(data, scores) if 0 < fraud.sum() < len(fraud) else {}
    return {
        "transactions": len(stretch),
        "frauds": int(fraud.sum()),
        "days": days,
        "reviewed": int((level == 1).sum()),
        "declined": int((level == 2).sum()),
        "recall": float(stopped.sum() / max(fraud.sum(), 1)),
        "precision": float(stopped.sum() / max(flagged.sum(), 1)),
        "value_stopped_share": float(cost.approve[stopped].sum() / max(cost.approve.sum(), 1e-12)),
        "average_precision": ranking.get("average_precision"),
        "roc_auc": ranking.get("roc_auc"),
        "cost_per_day_without_model": float(cost.approve.sum() / days),
        "cost_per_day": float(spent.sum() / days),
        "saved_per_day": float((cost.approve - spent).sum() / days),
        "latency_ms": answers.percentiles_ms(),
        "requests_per_s": len(stretch) / answers.seconds,
        "late": answers.late,
        "degraded": answers.degraded,
        "labels_recorded": answers.labels_recorded,
        "labels_failed": answers.labels_failed,
        "patterns": by_pattern(stretch, answers),
    }


def by_pattern(stretch: Sequence[LiveEvent], answers: Answers) -> dict[str, dict[str, int]]:
    """For each fraud pattern that occurred the frauds stopped and all its frauds; the most frequent first."""
    total: Counter[str] = Counter()
    stopped: Counter[str] = Counter()
    for event, action in zip(stretch, answers.actions, strict=True):
        if event.is_fraud:
            total[event.pattern] += 1
            stopped[event.pattern] += action is not Action.approve
    return {pattern: {"stopped": stopped[pattern], "frauds": count} for pattern, count in total.most_common()}


def most_certain_fraud(stretch: Sequence[LiveEvent], answers: Answers) -> LiveEvent:
    """The fraud with the highest score; the highest score of all when there was no fraud."""
    fraud = np.array([event.is_fraud for event in stretch])
    scores = np.nan_to_num(np.array(answers.scores), nan=0.0)
    return stretch[int(np.argmax(np.where(fraud | ~fraud.any(), scores, -1.0)))]


def _dataset(stretch: Sequence[LiveEvent]) -> Dataset:
    """The stretch without features: all that costs need."""
    n = len(stretch)
    return Dataset(
        x=np.empty((n, 0), dtype=np.float32),
        y=np.array([event.is_fraud for event in stretch], dtype=np.int8),
        event_time_us=np.array([event.event_time_us for event in stretch], dtype=np.int64),
        known_at_us=np.array([event.known_at_us for event in stretch], dtype=np.int64),
        amount_minor=np.array([event.amount_minor for event in stretch], dtype=np.float64),
        entity=np.full(n, -1, dtype=np.int64),
    )


def problems(found: Mapping[str, Any]) -> list[str]:
    """What did not go well, in words; empty when all did."""
    audit = found["audit"]
    checks = [
        (audit["differing"], "{:,} feature values served differ from the recomputed ones"),
        (found["transactions"] - audit["decisions"], "{:,} decisions were not audited"),
        (found["degraded"], "{:,} decisions were made without history or model"),
        (found["labels_failed"], "{:,} labels were refused"),
        (found["transactions"] - found["labels_recorded"], "{:,} labels were not recorded"),
        (int(found["saved_per_day"] <= 0), "the model saved no money"),
    ]
    return [words.format(count) for count, words in checks if count]


def show(found: Mapping[str, Any], as_json: bool) -> None:
    """Print all figures, and where to look next."""
    if as_json:
        output.result(found)
        return
    audit = found["audit"]
    output.remarks.print(
        f"{audit['values']:,} values of {audit['decisions']:,} decisions compared: {audit['differing']:,} differ"
        f" ({audit['explained']:,} more saw an event that arrived out of order, as they should)."
    )
    reviewed, declined = found["reviewed"], found["declined"]
    rows = [
        ["transactions, frauds", f"{found['transactions']:,}, {found['frauds']:,} in {found['days']:.0f} days"],
        ["recall: frauds stopped", f"{found['recall']:.1%} ({found['value_stopped_share']:.1%} of their cost)"],
        [
            "precision of reviews and declines",
            f"{found['precision']:.1%} ({reviewed:,} reviews, {declined:,} declines)",
        ],
        ["average precision, ROC AUC", f"{_number(found['average_precision'])}, {_number(found['roc_auc'])}"],
        ["cost per day without a model", f"{found['cost_per_day_without_model']:,.2f}"],
        ["cost per day with the model", f"{found['cost_per_day']:,.2f}"],
        ["money saved per day", f"{found['saved_per_day']:,.2f}"],
        ["latency p50, p95, p99", ", ".join(f"{ms:.1f}" for ms in found["latency_ms"].values()) + " ms"],
        ["requests a second", f"{found['requests_per_s']:,.0f}"],
    ]
    rows += [[f"stopped: {name}", f"{p['stopped']} of {p['frauds']}"] for name, p in found["patterns"].items()]
    output.table(["live stretch", "as the service decided"], rows)
    _explain(found["explained"])
    _where_next(found)


def _explain(explained: Mapping[str, Any]) -> None:
    say = output.remarks.print
    say(f"\n[bold cyan]Why {explained['transaction_id']} got {explained['score'] or 0:.1%}[/] ({explained['action']}):")
    for reason in explained["reasons"][:REASONS_SHOWN]:
        say(f"  {reason['contribution']:+.2f}  {reason['text']}", markup=False)


def _where_next(found: Mapping[str, Any]) -> None:
    say = output.remarks.print
    say("\n[bold cyan]Where to look next[/]")
    for what, where in (
        ("the models compared", found["report"]),
        ("the API, to try out", f"{found['url']}/docs"),
        ("its metrics", f"{found['url']}/metrics"),
    ):
        say(f"  {what:<22}{where}", soft_wrap=True)
    for problem in found["problems"]:
        say(f"[bold red]Not well: {problem}")
    say(f"\nAll of it took {found['seconds']:.0f} s.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
