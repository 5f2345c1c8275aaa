"""From the decision log to the figures: reports first, then delays, then decisions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from fraudml.decisions.log import DecisionLog
from fraudml.errors import ConfigError, NotFoundError
from fraudml.events.source import Progress
from fraudml.monitoring.performance import delays, reports, sums
from fraudml.monitoring.performance.delays import Delays
from fraudml.monitoring.performance.figures import LEAST_SHARE, MATURE, Figures
from fraudml.monitoring.performance.reports import DAY_US, SKEW_US, Project, Reported, unexplored
from fraudml.monitoring.performance.results import Performance
from fraudml.monitoring.performance.summary import Parts, summary
from fraudml.monitoring.performance.sums import Cells, FraudSums, Window, passed
from fraudml.monitoring.rollouts.resampling import GROUPS

HISTORY_US = 365 * DAY_US  # of reports that delays are learnt from
Step = Callable[[str], AbstractContextManager[Progress]]


def quiet(name: str) -> AbstractContextManager[Progress]:
    """A step that nobody looks at."""
    return nullcontext(lambda done, total: None)


def estimate(
    log: DecisionLog, project: Project, window: Window, maturity_us: int | None = None, step: Step = quiet
) -> Performance:
    """How well fraud is found in the window, corrected for labels that are not in yet.

    ``maturity_us``: how long labels may take, as the schema says; only to say whether delays that long were seen.
    ``step``: shows the progress of a step. Raises ConfigError for a window that cannot be, and NotFoundError where the
    log has no decisions on its transactions.
    """
    if not window.since_us < window.until_us <= window.now_us:
        raise ConfigError("the window has to begin before it ends, and must not end in the future")
    history_us = max(HISTORY_US, window.now_us - window.since_us)
    with step("Read label reports") as progress:
        batches = log.outcomes(max(0, window.now_us - history_us - SKEW_US), labelled=True)
        reported = reports.read(batches, project, window.now_us, history_us, window.model, progress)
    silent_since_us = reported.feed.newest_fraud_us if reported.feed.stopped else None
    if silent_since_us is not None and silent_since_us > window.since_us:
        # what came after it is unknown, not genuine
        window = window._replace(now_us=silent_since_us, until_us=min(window.until_us, silent_since_us))
        silent_since_us = None
    learnt = _learn(reported, window.now_us)
    shares = learnt.shares(np.ones((1, GROUPS)))[0]
    ages_s = [
        max((delays.quantile(shares[kind], level) for kind in (0, 1) if learnt.seen_up_to_us(kind)), default=0.0)
        for level in (LEAST_SHARE, MATURE)
    ]
    cells = Cells(window, int(ages_s[0] * 1e6))
    with step("Read decisions") as progress:
        batches = log.outcomes(max(0, window.since_us - SKEW_US))
        decisions = sums.count(batches, project, cells, window, ages_s[1] * 1e6, progress)
    if not decisions.number:
        whose = f" by model version {window.model}" if window.model else ""
        raise NotFoundError(f"the log has no decisions{whose} on transactions of that time; say --window, or --until")
    rows = reported.rows.take(reported.of_model & window.has(reported.rows.event_time_us))
    age_us = window.now_us - rows.event_time_us
    old, fraud = age_us >= cells.edges_us[0], rows.fraud == 1
    frauds = FraudSums(rows.take(old & fraud), age_us[old & fraud], cells, project.costs)
    told = (
        np.bincount(cells.of(age_us[which]), minlength=len(cells))
        for which in (old & unexplored(rows), old & fraud & unexplored(rows))
    )
    parts = Parts(
        window=window,
        cells=cells,
        learnt=learnt,
        shares=shares,
        decisions=decisions,
        figures=Figures(learnt, frauds, decisions),
        frauds=int((old & fraud).sum()),
        young_frauds=float(rows.label_weight[~old & fraud].sum()),
        labelled_declines=next(told).astype(np.float64),
        labelled_frauds=next(told).astype(np.float64),
        mature_s=ages_s[1],
        feed=reported.feed,
        silent=silent_since_us is not None,
    )
    return summary(parts, maturity_us)


def _learn(reported: Reported, now_us: int) -> Delays:
    """From all reported frauds; those of declines only where they stand for others."""
    rows = reported.rows
    rows = rows.take((rows.fraud == 1) & (rows.label_weight > 0) & (rows.event_time_us <= now_us))
    kind = (~passed(rows)).astype(np.int64)
    delay_us = rows.arrival - rows.event_time_us
    return delays.learn(rows.key % GROUPS, kind, delay_us, now_us - rows.event_time_us)
