"""What the estimate of performance says."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from fraudml.monitoring.rollouts.resampling import Interval


class DeclinesKnown(StrEnum):
    """How it is known whether declines were right."""

    none = "none"  # nothing was declined
    explored = "explored"  # some would-be declines were let through, and stand for the others
    labelled = "labelled"  # declines get labels like anything else
    unknown = "unknown"  # most declines never get a label


class Bounds(msgspec.Struct, frozen=True):
    """A share while declines have no labels: if all of them were genuine (``low``), if all were frauds (``high``), and
    if the calibrated scores are right about them (``by_score``)."""

    low: float
    by_score: float
    high: float


class Declines(msgspec.Struct, frozen=True):
    """Would-be declines among the decisions of the estimate: those under exploration, the others with a label and
    without one. ``recall``, ``precision``: where they are unknown."""

    known: DeclinesKnown
    explored: int = 0
    labelled: int = 0
    unlabelled: int = 0
    recall: Bounds | None = None
    precision: Bounds | None = None


class Raw(msgspec.Struct, frozen=True):
    """The same figures as if no label were still to come; money is per day in currency units."""

    recall: float | None = None
    precision: float | None = None
    loss_per_day: float | None = None
    confirmed_rate: float | None = None


class Delay(msgspec.Struct, frozen=True):
    """How long frauds of a kind take to be reported, learnt from ``frauds`` reports.

    ``kind``: ``passed`` were approved, ``checked`` were reviewed or declined. ``share[i]`` of them are reported
    ``age_s[i]`` seconds after the transaction. ``seen_up_to_s``: longer delays were not seen and count as none.
    """

    kind: str
    frauds: int
    seen_up_to_s: float
    median_s: float
    p90_s: float
    age_s: list[float]
    share: list[float]


class Cohort(msgspec.Struct, frozen=True):
    """Transactions of one range of ages. ``maturity``: share of their frauds that is reported, as estimated."""

    from_s: float
    to_s: float
    decisions: int
    frauds: int
    maturity: float | None
    raw_recall: float | None
    recall: Interval | None


class Feed(msgspec.Struct, frozen=True):
    """Whether labels keep coming.

    ``expected``: reports of fraud to be expected since the newest one, at the rate before it. ``last_day``, and what
    was expected of it: frauds reported in the last 24 hours. ``impossible``: reports dated before their transaction;
    they count as reported at once. ``backlog``: reports that arrived more than a week after they were known; they
    count from when they were known. ``ahead``: reports and decisions dated after now, which are not counted.
    """

    newest_label_us: int | None = None
    newest_fraud_us: int | None = None
    expected: float | None = None
    last_day: int = 0
    last_day_expected: float | None = None
    stopped: bool = False
    reports: int = 0
    impossible: int = 0
    backlog: int = 0
    ahead: int = 0


class Performance(msgspec.Struct, frozen=True):
    """How well fraud is found, from decisions on transactions of ``[since_us, until_us)`` that are old enough.

    Shares and money per day are corrected for labels that are not in yet; ``None`` where they cannot be known, and
    ``notes`` say why. ``raw``: not corrected. ``as_of_us``: ages are measured up to then; the newest report of a fraud
    where reports have stopped. ``decisions``, ``frauds`` (reported): of ages from ``speaks_from_age_s`` on.
    ``maturity``: share of the frauds of the whole window that is reported. ``roc_auc``, ``pr_auc``: on decisions of
    ages from ``mature_from_s`` on, by when nine in ten frauds are reported.
    """

    as_of_us: int
    since_us: int
    until_us: int
    decisions: int
    frauds: int
    speaks_from_age_s: float | None
    recall: Interval | None
    precision: Interval | None
    loss_per_day: Interval | None
    false_decline_cost_per_day: Interval | None
    review_cost_per_day: Interval | None
    confirmed_rate: Interval | None
    roc_auc: Interval | None
    pr_auc: Interval | None
    mature_from_s: float | None
    raw: Raw
    maturity: float | None
    delay_median_s: float | None
    delay_p90_s: float | None
    delays: list[Delay]
    cohorts: list[Cohort]
    declines: Declines
    feed: Feed
    notes: list[str]
