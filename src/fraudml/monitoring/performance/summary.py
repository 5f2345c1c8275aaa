"""From the figures to the result: what can be said, and what not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fraudml.monitoring.performance.delays import KINDS, Delays, Floats, at, quantile
from fraudml.monitoring.performance.figures import NOTHING, Figures, interval
from fraudml.monitoring.performance.notes import notes
from fraudml.monitoring.performance.reports import DAY_US
from fraudml.monitoring.performance.results import Cohort, DeclinesKnown, Delay, Feed, Performance, Raw
from fraudml.monitoring.performance.sums import (
    ALL,
    CAUGHT,
    DECLINE_COST,
    LOSS,
    MISSED,
    REVIEW_COST,
    Cells,
    DecisionSums,
    Window,
)
from fraudml.monitoring.rollouts.resampling import Interval, Resampled

CURVE_S = np.concatenate([[3_600.0, 6 * 3_600.0, 12 * 3_600.0], 86_400.0 * np.array([1, 2, 3, 5, 7, 10, 14, 21])])
CURVE_S = np.concatenate([CURVE_S, 86_400.0 * np.array([28, 35, 45, 60, 75, 90, 120, 150, 180, 240, 300, 365])])


@dataclass(frozen=True)
class Parts:
    """All that was counted. ``frauds``: reported ones that are old enough; ``young_frauds``: the others, weighted;
    ``labelled_declines`` and, of these, ``labelled_frauds``: declines without exploration by cell; ``silent``: no fraud
    was reported since before the window."""

    window: Window
    cells: Cells
    learnt: Delays
    shares: Floats
    decisions: DecisionSums
    figures: Figures
    frauds: int
    young_frauds: float
    labelled_declines: Floats
    labelled_frauds: Floats
    mature_s: float
    feed: Feed
    silent: bool

    def learnable(self, kind: int) -> bool:
        """Whether enough frauds of the kind are reported to say how long they take, or there is none to wait for."""
        return not self.silent and (self.learnt.seen_up_to_us(kind) > 0 or not self.decisions.kinds[kind].any())

    @property
    def days(self) -> float:
        """From the oldest transaction to the youngest that is old enough."""
        since_us = max(self.window.since_us, self.decisions.first_us)
        return max(self.window.now_us - int(self.cells.edges_us[0]) - since_us, 1) / DAY_US


def summary(parts: Parts, maturity_us: int | None) -> Performance:
    """The result; what cannot be known is None, and a note says why."""
    figures, window = parts.figures, parts.window
    every = figures.groups(MISSED, CAUGHT)
    passed, checked = (parts.learnable(kind) for kind in (0, 1))
    both = passed and checked
    declines = figures.declines(parts.labelled_declines, parts.labelled_frauds, parts.decisions.explored)
    right = declines.known is not DeclinesKnown.unknown

    def told(said: bool, resampled: Resampled, groups: int) -> Interval | None:
        return interval(resampled, groups) if said else None

    roc_auc, pr_auc = figures.ranking(parts.mature_s * 1e6) if both and right and every else (None, None)
    has_declines = figures.decision_groups(DECLINE_COST) > 0
    false_declines = told(
        right and checked, figures.false_declines() / parts.days, figures.decision_groups(DECLINE_COST)
    )
    reviews = interval(figures.reviews() / parts.days, figures.decision_groups(REVIEW_COST))
    raw = Raw(
        recall=_first(figures.recall(raw=True)),
        precision=_first(figures.precision(declines.known, raw=True)),
        loss_per_day=float(figures.frauds(LOSS, raw=True)[0]) / parts.days,
        confirmed_rate=_first(figures.confirmed(raw=True)),
    )
    pooled = _pooled(parts) if both and every else None
    result = Performance(
        as_of_us=window.now_us,
        since_us=window.since_us,
        until_us=window.until_us,
        decisions=int(figures.decisions(ALL)[0]),
        frauds=parts.frauds,
        speaks_from_age_s=float(parts.cells.edges_us[0]) / 1e6,
        recall=told(both, figures.recall(), every),
        precision=told(checked, figures.precision(declines.known), figures.groups(CAUGHT)),
        loss_per_day=told(both, figures.loss() / parts.days, figures.groups(MISSED)),
        false_decline_cost_per_day=false_declines if has_declines else NOTHING,
        review_cost_per_day=reviews if figures.decision_groups(REVIEW_COST) else NOTHING,
        confirmed_rate=told(both, figures.confirmed(), every),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        mature_from_s=parts.mature_s if both and every else None,
        raw=raw,
        maturity=_maturity(parts) if both and every else None,
        delay_median_s=None if pooled is None else quantile(pooled, 0.5),
        delay_p90_s=None if pooled is None else quantile(pooled, 0.9),
        delays=[_delay(parts, kind) for kind in (0, 1) if parts.learnt.seen_up_to_us(kind)],
        cohorts=_cohorts(parts, both),
        declines=declines,
        feed=parts.feed,
        notes=[],
    )
    return notes(result, parts.learnable, maturity_us)


def _first(resampled: Resampled) -> float | None:
    """The figure of the data."""
    return float(resampled[0]) if np.isfinite(resampled[0]) else None


def _all_frauds(figures: Figures, *, raw: bool = False) -> float:
    return float(figures.frauds(MISSED, raw=raw)[0] + figures.frauds(CAUGHT, raw=raw)[0])


def _maturity(parts: Parts) -> float | None:
    """Reported frauds of the whole window, of all; the youngest transactions are taken to have as many as others."""
    counted = float(parts.figures.decisions(ALL)[0])
    every = _all_frauds(parts.figures) * (counted + parts.decisions.young) / max(counted, 1.0)
    reported = _all_frauds(parts.figures, raw=True) + parts.young_frauds
    return min(reported / every, 1.0) if every > 0 else None


def _pooled(parts: Parts) -> Floats:
    """The share of all frauds that is reported by each age of the grid."""
    weights = parts.figures.by_kind()
    return np.asarray(weights @ parts.shares / max(weights.sum(), 1e-12))


def _delay(parts: Parts, kind: int) -> Delay:
    """What was learnt of a kind."""
    share, longest_s = parts.shares[kind], parts.learnt.seen_up_to_us(kind) / 1e6
    ages = CURVE_S[longest_s > CURVE_S]
    number = int(parts.learnt.came[:, kind].sum())
    told = [round(float(each), 4) for each in at(share, ages * 1e6)]
    return Delay(KINDS[kind], number, longest_s, quantile(share, 0.5), quantile(share, 0.9), ages.tolist(), told)


def _cohorts(parts: Parts, both: bool) -> list[Cohort]:
    """The transactions by age, the youngest first."""
    found, figures, of_cell = [], parts.figures, parts.cells.cohort()
    edges = parts.cells.cohorts_us / 1e6
    for place in range(len(edges) - 1):
        cells = of_cell == place
        decisions = int(figures.decisions(ALL, cells)[0])
        if not decisions:
            continue
        reported = float(figures.frauds(MISSED, cells, raw=True)[0] + figures.frauds(CAUGHT, cells, raw=True)[0])
        every = float(figures.frauds(MISSED, cells)[0] + figures.frauds(CAUGHT, cells)[0])
        cohort = Cohort(
            from_s=float(edges[place]),
            to_s=float(edges[place + 1]),
            decisions=decisions,
            frauds=round(reported),
            maturity=min(reported / every, 1.0) if both and every > 0 else None,
            raw_recall=_first(figures.recall(cells, raw=True)),
            recall=interval(figures.recall(cells), figures.groups(MISSED, CAUGHT, cells=cells)) if both else None,
        )
        found.append(cohort)
    return found
