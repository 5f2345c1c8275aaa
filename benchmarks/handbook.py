"""The Handbook's protocol and metrics, exactly by their definition.

Le Borgne, Siblini, Lebichot, Bontempi: *Reproducible Machine Learning for Credit Card Fraud Detection - Practical
Handbook* (2022), chapters 3-5: train on 7 days, labels known 7 days later, test on the 7 days after those; customers
known to be defrauded are removed from the test set day by day; card precision@100 removes cards found on earlier days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from fraudml.training.dataset import Dataset

DAY_US = 86_400_000_000
WEEK = 7


@dataclass(frozen=True)
class Metrics:
    """The Handbook's three columns."""

    auc_roc: float
    average_precision: float
    card_precision_100: float


def train_rows(data: Dataset, test_day: int) -> NDArray[np.int64]:
    """Rows of the 7 training days, which end 7 days before the test begins; days count from 1970-01-01."""
    day = data.event_time_us // DAY_US
    return np.flatnonzero((day >= test_day - 2 * WEEK) & (day < test_day - WEEK))


def test_rows(data: Dataset, test_day: int) -> NDArray[np.int64]:
    """Rows of the 7 test days without the customers known to be defrauded on each day: by the training period, and
    by each day that has become known since (the Handbook's ``get_train_test_set``)."""
    day = data.event_time_us // DAY_US
    trained = train_rows(data, test_day)
    known = set(data.entity[trained][data.y[trained] == 1].tolist())
    rows = []
    for offset in range(WEEK):
        revealed = (day == test_day - WEEK + offset - 1) & (data.y == 1)
        known |= set(data.entity[revealed].tolist())
        today = np.flatnonzero(day == test_day + offset)
        rows.append(today[~np.isin(data.entity[today], list(known))])
    return np.concatenate(rows)


def measure(data: Dataset, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> Metrics:
    """The three metrics over test rows."""
    y = data.y[rows]
    return Metrics(
        float(roc_auc_score(y, scores)),
        float(average_precision_score(y, scores)),
        card_precision(data, rows, scores, 100),
    )


def card_precision(data: Dataset, rows: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> float:
    """Mean over days of the share of compromised cards among the k with the highest score, where a compromised card
    that was among the k of an earlier day is left out (the Handbook's ``card_precision_top_k``)."""
    day = data.event_time_us[rows] // DAY_US
    entity, fraud = data.entity[rows], data.y[rows] == 1
    found: set[int] = set()
    precisions = []
    for today in np.unique(day):
        place = np.flatnonzero((day == today) & ~np.isin(entity, list(found)))
        keys, at = np.unique(entity[place], return_inverse=True)
        top = np.full(len(keys), -np.inf)
        np.maximum.at(top, at, scores[place])
        compromised = np.zeros(len(keys), dtype=bool)
        np.logical_or.at(compromised, at, fraud[place])
        best = np.argsort(-top, kind="stable")[:k]
        caught = best[compromised[best]]
        found |= set(keys[caught].tolist())
        precisions.append(len(caught) / k)
    return float(np.mean(precisions))
