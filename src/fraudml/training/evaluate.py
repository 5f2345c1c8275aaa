"""How good a model is on a held-back period: ranking, calibration, what the team of analysts sees.

Definitions: average precision as in scikit-learn; card precision@k as in Le Borgne et al., *Reproducible Machine
Learning for Credit Card Fraud Detection* (2022), without removing detected cards: for each day the k entities with
the highest score, the share of them with a fraud that day, averaged over days; calibration error over ten bins of
equal count (ECE, Naeini et al. 2015).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from fraudml.training.dataset import Dataset

DAY_US = 86_400_000_000
FALSE_POSITIVE_RATES = (0.001, 0.005, 0.01, 0.05)
TOP_K = 100
BINS = 10


def metrics(data: Dataset, scores: NDArray[np.float64]) -> dict[str, Any]:
    """The metrics of one period; ``scores`` are probabilities, float64 ``[n]``; all rows are labelled."""
    y = data.y.astype(np.int64)
    found: dict[str, Any] = {
        "rows": len(y),
        "frauds": int(y.sum()),
        "roc_auc": float(roc_auc_score(y, scores)),
        "average_precision": float(average_precision_score(y, scores)),
        "brier": float(brier_score_loss(y, scores)),
        "calibration_error": calibration_error(y, scores),
    }
    for rate in FALSE_POSITIVE_RATES:
        found[f"recall_at_fpr_{rate:g}"] = recall_at(y, scores, rate)
    if (data.entity >= 0).any():
        found[f"card_precision_at_{TOP_K}"] = entity_precision(data, scores, TOP_K)
    return found


def recall_at(y: NDArray[Any], scores: NDArray[np.float64], false_positive_rate: float) -> float:
    """The share of frauds found when at most this share of the genuine transactions is flagged.

    >>> recall_at(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]), 0.01)
    0.5
    """
    false_positive, true_positive, _ = roc_curve(y, scores, drop_intermediate=False)
    return float(true_positive[np.searchsorted(false_positive, false_positive_rate, "right") - 1])


def calibration_error(y: NDArray[np.int64], scores: NDArray[np.float64], bins: int = BINS) -> float:
    """Expected calibration error: mean distance of score and fraud share over bins of equal count.

    >>> calibration_error(np.array([0, 1]), np.array([0.5, 0.5]), bins=1)
    0.0
    """
    return float(sum(share * abs(score - rate) for share, score, rate in reliability(y, scores, bins)))


def reliability(
    y: NDArray[np.int64], scores: NDArray[np.float64], bins: int = BINS
) -> list[tuple[float, float, float]]:
    """Per bin: (share of rows, mean score, fraud share), by rising score.

    Bins have about equal count; equal scores share a bin, so the order of the rows does not matter.
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    number = np.searchsorted(edges, scores, "right")
    parts = (number == i for i in np.unique(number))
    return [(float(part.mean()), float(scores[part].mean()), float(y[part].mean())) for part in parts]


def entity_precision(data: Dataset, scores: NDArray[np.float64], k: int) -> float:
    """Card precision@k (see the module's text); rows without an entity are left out."""
    keep = data.entity >= 0
    day, entity = data.event_time_us[keep] // DAY_US, data.entity[keep]
    fraud, score = data.y[keep] == 1, scores[keep]
    precisions = []
    for today in np.unique(day):
        rows = day == today
        keys, position = np.unique(entity[rows], return_inverse=True)
        top = np.full(len(keys), -np.inf)
        np.maximum.at(top, position, score[rows])
        defrauded = np.zeros(len(keys), dtype=bool)
        np.logical_or.at(defrauded, position, fraud[rows])
        # a day with fewer entities than k still pays for k checks
        best = np.argsort(-top, kind="stable")[:k]
        precisions.append(defrauded[best].sum() / k)
    return float(np.mean(precisions))


def by_week(data: Dataset, scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Average precision and fraud share per week of the period; weeks without both classes have no precision."""
    week = (data.event_time_us - data.event_time_us.min()) // (7 * DAY_US)
    weeks = []
    for number in np.unique(week):
        rows = week == number
        y = data.y[rows]
        both = 0 < y.sum() < len(y)
        weeks.append(
            {
                "start_us": int(data.event_time_us[rows].min()),
                "rows": int(rows.sum()),
                "frauds": int(y.sum()),
                "average_precision": float(average_precision_score(y, scores[rows])) if both else None,
            }
        )
    return weeks
