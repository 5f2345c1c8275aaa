"""The plots of the report, each an inline SVG of what happened in the held-back period."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from fraudml.models.bundle import Thresholds
from fraudml.pages import figures
from fraudml.pages.figures import FRAUD, GENUINE, INK, LINES, MARKERS, PAPER, SERIES
from fraudml.training import money
from fraudml.training.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fraudml.training.train import Candidate, Result

POINTS = 400  # of a curve: more cannot be seen
SMALLEST = 1e-6  # scores below are drawn as this
SCORE_BINS = 40
CALIBRATION_BINS = 12
MIN_BIN_ROWS = 30

Floats = NDArray[np.float64]


def draw(result: Result, data: Dataset, currency: str) -> dict[str, str]:
    """Every plot by name; ``data`` is the held-back period, ``currency`` follows amounts ("" when unknown)."""
    best = result.candidates[0]
    return {
        "precision_recall": precision_recall(result.candidates, data),
        "calibration": calibration(result.candidates, data),
        "cost_by_threshold": cost_by_threshold(result, data, currency),
        "cost_by_reviews": cost_by_reviews(result, data, currency),
        "scores": score_distribution(best, data),
        "weeks": by_week(result.candidates),
    }


def precision_recall(candidates: Sequence[Candidate], data: Dataset) -> str:
    """Precision against recall, all families."""
    with figures.drawing("pr", "Precision against recall for each family") as drawn:
        axes = drawn.figure.subplots()
        for i, candidate in enumerate(candidates):
            precision, recall, _ = precision_recall_curve(data.y, candidate.scores)
            kept = _thin(len(recall))
            label = f"{candidate.family} (AP {candidate.test_metrics['average_precision']:.3f})"
            axes.plot(recall[kept], precision[kept], color=_colour(i), linestyle=_line(i), label=label)
        share = float(data.y.mean())
        axes.axhline(share, color=INK, linewidth=0.8, linestyle=":", label=f"no skill ({share:.2%} fraud)")
        axes.set(xlabel="Recall: share of frauds found", ylabel="Precision: share of alarms right")
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
        figures.legend(drawn.figure, axes)
    return drawn.svg


def calibration(candidates: Sequence[Candidate], data: Dataset) -> str:
    """Fraud share against mean score in bins of equal width in log-odds; the best family with 95 % intervals."""
    with figures.drawing("calibration", "Observed fraud share against predicted probability") as drawn:
        axes = drawn.figure.subplots()
        lowest = 1.0
        for i, candidate in enumerate(candidates):
            score, rate, low, high = reliability_points(data.y, candidate.scores)
            seen = rate > 0
            if not seen.any():
                continue
            lowest = min(lowest, float(score[seen].min()), float(rate[seen].min()))
            error = np.array([rate - low, high - rate])[:, seen] if i == 0 else None
            axes.errorbar(
                score[seen],
                rate[seen],
                yerr=error,
                color=_colour(i),
                linestyle=_line(i),
                marker=MARKERS[i % len(MARKERS)],
                elinewidth=0.9,
                capsize=2,
                label=candidate.family,
            )
        lowest = max(lowest * 0.6, SMALLEST)
        axes.plot([lowest, 1], [lowest, 1], color=INK, linewidth=0.8, linestyle=":", label="perfect")
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1.1), ylim=(lowest, 1.5))
        axes.set(xlabel="Mean score in the bin", ylabel="Share of frauds in the bin")
        figures.legend(drawn.figure, axes)
    return drawn.svg


def reliability_points(y: NDArray[np.int8], scores: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Per bin (equal width in log-odds, at least 30 rows): mean score, fraud share, its Wilson 95 % interval."""
    odds = _log_odds(scores)
    edges = np.linspace(odds.min(), odds.max(), CALIBRATION_BINS + 1)
    number = np.clip(np.searchsorted(edges, odds, "right") - 1, 0, CALIBRATION_BINS - 1)
    rows = np.bincount(number, minlength=CALIBRATION_BINS).astype(np.float64)
    frauds = np.bincount(number, weights=y == 1, minlength=CALIBRATION_BINS)
    total = np.bincount(number, weights=scores, minlength=CALIBRATION_BINS)
    full = rows >= min(MIN_BIN_ROWS, rows.max())
    rows, frauds, total = rows[full], frauds[full], total[full]
    rate, z2 = frauds / rows, 1.96**2
    middle = (rate + z2 / (2 * rows)) / (1 + z2 / rows)
    half = np.sqrt(z2) / (1 + z2 / rows) * np.sqrt(rate * (1 - rate) / rows + z2 / (4 * rows**2))
    return total / rows, rate, np.maximum(middle - half, 0.0).clip(max=rate), np.maximum(middle + half, rate)


def cost_by_threshold(result: Result, data: Dataset, currency: str) -> str:
    """Cost per day of the best family against one threshold, declining or reviewing all above it."""
    best = result.candidates[0]
    cost, span = _outcomes(result, data), money.days(data)
    order = np.argsort(-best.scores, kind="stable")
    base = cost.approve.sum() / span
    kept = _thin(len(order))
    odds = _log_odds(best.scores[order][kept])
    with figures.drawing("threshold", "Cost per day against the threshold") as drawn:
        axes = drawn.figure.subplots()
        lines = (("decline all above", cost.decline, 1), ("review all above", cost.review, 0))
        for label, action, i in lines:
            total = base + np.cumsum((action - cost.approve)[order]) / span
            axes.plot(odds, total[kept], color=_colour(i), linestyle=_line(i), label=label)
        axes.axhline(base, color=INK, linewidth=0.8, linestyle=":", label="approve everything")
        axes.axhline(best.money["cost_per_day"], color=_colour(2), linewidth=1.2, label="both thresholds as chosen")
        _mark_thresholds(axes, best.thresholds)
        axes.set_ylim(0, 2.2 * base if base > 0 else None)
        _probability_axis(axes, odds)
        axes.set(xlabel="Threshold (score)", ylabel=f"Cost per day{_in(currency)}")
        figures.legend(drawn.figure, axes)
    return drawn.svg


def cost_by_reviews(result: Result, data: Dataset, currency: str) -> str:
    """Cost per day against the number of reviews, the decline threshold as chosen, all families."""
    capacity = result.costs.reviews_per_day
    with figures.drawing("reviews", "Cost per day against reviews per day") as drawn:
        axes = drawn.figure.subplots()
        for i, candidate in enumerate(result.candidates):
            reviews, cost = costs_by_reviews(result, candidate, data)
            kept = np.unique(np.linspace(0, len(cost) - 1, POINTS).astype(np.int64))
            axes.plot(reviews[kept], cost[kept], color=_colour(i), linestyle=_line(i), label=candidate.family)
            chosen = (candidate.money["reviews_per_day"], candidate.money["cost_per_day"])
            axes.plot(*chosen, color=_colour(i), marker=MARKERS[i % len(MARKERS)], markeredgecolor=PAPER, markersize=8)
        axes.axvline(capacity, color=INK, linewidth=0.8, linestyle=":", label=f"capacity ({capacity:g} a day)")
        axes.set_ylim(bottom=0)
        axes.set(xlabel="Reviews per day", ylabel=f"Cost per day{_in(currency)}")
        figures.legend(drawn.figure, axes)
    return drawn.svg


def costs_by_reviews(result: Result, candidate: Candidate, data: Dataset) -> tuple[Floats, Floats]:
    """Reviews per day, and the cost per day when that many of the highest scores not declined are reviewed; up to
    three times the capacity or twice what the thresholds chosen give."""
    cost, span = _outcomes(result, data), money.days(data)
    declined = candidate.scores >= candidate.thresholds.decline
    order = np.argsort(-candidate.scores, kind="stable")
    order = order[~declined[order]]
    base = cost.decline[declined].sum() + cost.approve[~declined].sum()
    per_day = max(3 * result.costs.reviews_per_day, 2 * candidate.money["reviews_per_day"], 10)
    order = order[: int(per_day * span)]
    total = base + np.concatenate([[0.0], np.cumsum((cost.review - cost.approve)[order])])
    return np.arange(len(order) + 1) / span, total / span


def score_distribution(candidate: Candidate, data: Dataset) -> str:
    """How many genuine and fraudulent transactions get which score, both axes stretched."""
    odds = _log_odds(candidate.scores)
    edges = np.linspace(odds.min() - 1e-9, odds.max() + 1e-9, SCORE_BINS + 1)
    with figures.drawing("scores", "Scores of genuine transactions and of frauds") as drawn:
        axes = drawn.figure.subplots()
        for label, value, colour, line in (("genuine", 0, GENUINE, "-"), ("fraud", 1, FRAUD, "--")):
            counts = np.histogram(odds[data.y == value], edges)[0]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25, baseline=0.5)
            axes.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.6, baseline=0.5, label=label)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        _mark_thresholds(axes, candidate.thresholds)
        _probability_axis(axes, odds)
        axes.set(xlabel="Score", ylabel="Transactions")
        figures.legend(drawn.figure, axes)
    return drawn.svg


def by_week(candidates: Sequence[Candidate]) -> str:
    """Average precision of each family and the share of frauds, week by week."""
    with figures.drawing("weeks", "Average precision and fraud share by week") as drawn:
        above, below = drawn.figure.subplots(2, sharex=True, height_ratios=[2.4, 1])
        for i, candidate in enumerate(candidates):
            values = [
                np.nan if week["average_precision"] is None else week["average_precision"] for week in candidate.weeks
            ]
            style: dict[str, Any] = {"color": _colour(i), "linestyle": _line(i), "marker": MARKERS[i % len(MARKERS)]}
            above.plot(range(len(values)), values, label=candidate.family, **style)
        weeks = candidates[0].weeks
        below.bar(range(len(weeks)), [100 * week["frauds"] / week["rows"] for week in weeks], 0.5, color=SERIES[0])
        names = [f"{datetime.fromtimestamp(week['start_us'] / 1e6, UTC):%d %b}" for week in weeks]
        step = 1 + len(weeks) // 14
        below.set_xticks(range(0, len(weeks), step), names[::step])
        above.set(ylabel="Average precision", ylim=(0, 1))
        below.set(ylabel="Fraud, %", xlabel="Week beginning")
        below.grid(visible=False, axis="x")
        figures.legend(drawn.figure, above)
    return drawn.svg


def _outcomes(result: Result, data: Dataset) -> money.Outcomes:
    amount = result.feature_set.schema.amount
    return money.outcomes(data, result.costs, amount.decimals if amount else 0)


def _mark_thresholds(axes: Axes, thresholds: Thresholds) -> None:
    """Vertical lines at those thresholds that a score can reach; their names on the outer sides."""
    for name, value, side in (("review", thresholds.review, "right"), ("decline", thresholds.decline, "left")):
        if 0 < value < 1:
            place = float(_log_odds(np.array([value]))[0])
            axes.axvline(place, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
            mark = axes.annotate(
                name,
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3 if side == "right" else 3, -2),
                textcoords="offset points",
                rotation=90,
                ha=side,
                va="top",
                fontsize=9,
                annotation_clip=True,  # not where no score is
            )
            mark.set_in_layout(False)


def _probability_axis(axes: Axes, odds: Floats) -> None:
    """Log-odds on the x axis, written as the probabilities they are."""
    marks = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    places = _log_odds(marks)
    shown = (places >= odds.min() - 0.5) & (places <= odds.max() + 0.5)
    axes.set_xticks(places[shown], [f"{mark:.6g}" if mark >= 1e-4 else f"{mark:.0e}" for mark in marks[shown]])
    axes.set_xlim(odds.min() - 0.3, odds.max() + 0.3)


def _log_odds(scores: Floats) -> Floats:
    clipped = np.clip(scores, SMALLEST, 1 - SMALLEST)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds


def _thin(length: int) -> NDArray[np.int64]:
    """Places of at most 2 x 400 points of a curve: dense at both ends, where precision and cost change fastest."""
    if length <= 2 * POINTS:
        return np.arange(length)
    near = np.geomspace(1, length, POINTS).astype(np.int64) - 1
    return np.unique(np.concatenate([near, length - 1 - near, np.linspace(0, length - 1, POINTS).astype(np.int64)]))


def _colour(i: int) -> str:
    return SERIES[i % len(SERIES)]


def _line(i: int) -> Any:
    return LINES[i % len(LINES)]


def _in(currency: str) -> str:
    return f" ({currency})" if currency else ""
