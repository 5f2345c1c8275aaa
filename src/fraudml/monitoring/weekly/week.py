"""The figures of a week, and what they mean in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.errors import ConfigError
from fraudml.models.rollout import Kind, Rollout
from fraudml.monitoring.weekly import sums
from fraudml.monitoring.weekly.outlook import Outlook
from fraudml.monitoring.weekly.sums import WEEK_US, WEEKS, Repeat, Segment, Sums

FEWEST_FRAUDS = 5  # of a pattern that is told
LIFT = 1.5  # times the share of frauds of all transactions, by the lower bound of what is seen
BY_CHANCE = 0.05  # of weeks without any pattern at most have one, whatever the number of segments (Bonferroni)
TOP = 10
HEAVY = 0.01  # a share of decisions without history that is worth a word


class Figures(msgspec.Struct, frozen=True):
    """Of a week, or an average one. Money is in currency units. ``missed`` and ``frauds`` are what is known by now."""

    transactions: float
    reviews: float
    declines: float
    frauds: float
    fraud_amount: float
    stopped: float
    missed: float
    false_declines: float
    false_decline_cost: float
    review_cost: float

    @property
    def saved(self) -> float:
        """Loss that was stopped, less what stopping cost."""
        return self.stopped - self.false_decline_cost - self.review_cost


class Pattern(msgspec.Struct, frozen=True):
    """A segment in which fraud is more frequent than elsewhere. ``lift``: times the share of all transactions;
    ``is_new``: it was not so in the four weeks before."""

    attribute: str
    value: str
    frauds: int
    transactions: int
    amount: float
    lift: float
    is_new: bool


class Change(msgspec.Struct, frozen=True):
    """A change of what serves. ``what``: in words."""

    at: str
    what: str
    by: str
    reason: str


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """The report. Times are microseconds UTC; lists by day begin with Monday. ``outlook``: what is still to come, where
    it is known; ``blind``: the share of decisions without history."""

    since_us: int
    currency: str
    this: Figures
    before: Figures
    average: Figures
    days: list[str]
    stopped_by_day: list[float]
    missed_by_day: list[float]
    frauds_by_day: list[float]
    patterns: list[Pattern]
    changes: list[Change]
    repeats: list[Repeat]
    labelled: int
    outlook: Outlook | None
    blind: float


def monday_us(text: str | None, now_us: int) -> int:
    """When a week begins, written as ``2026-W48``; by default the last one that is over. Raises ``ConfigError``.

    >>> datetime.fromtimestamp(monday_us("2026-W01", 0) / 1e6, UTC).date().isoformat()
    '2025-12-29'
    """
    if text is None:
        now = datetime.fromtimestamp(now_us / 1e6, UTC)
        day = now.date() - timedelta(days=now.weekday() + 7)
    else:
        try:
            day = date.fromisoformat(f"{text}-1")
        except ValueError:
            raise ConfigError(f"{text!r} is no week; write it as 2026-W48") from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e6)


def last_us(now_us: int, newest_us: int | None) -> int:
    """When the last week that is over begins, or that of the newest transaction where that is older, as after a replay
    of history."""
    since_us = monday_us(None, now_us)
    return since_us if newest_us is None or newest_us >= since_us else monday_us(None, newest_us + WEEK_US)


def week(
    found: Sums,
    since_us: int,
    costs: Costs,
    currency: str,
    rollouts: Iterable[Rollout],
    outlook: Outlook | None = None,
) -> Week:
    """The report on what was read."""
    last = found.days[-7:]
    total = max(float(last[:, sums.COUNT].sum()), 1.0)
    names = [datetime.fromtimestamp(since_us / 1e6, UTC) + timedelta(days=day) for day in range(7)]
    return Week(
        since_us=since_us,
        currency=currency,
        this=_figures(found.week(), costs),
        before=_figures(found.week(1), costs),
        average=_figures(np.mean([found.week(back) for back in range(1, WEEKS)], axis=0), costs),
        days=[f"{name:%a}" for name in names],
        stopped_by_day=last[:, sums.STOPPED].tolist(),
        missed_by_day=last[:, sums.MISSED].tolist(),
        frauds_by_day=last[:, sums.FRAUDS].tolist(),
        patterns=_patterns(found),
        changes=list(_changes(rollouts, since_us)),
        repeats=found.repeats,
        labelled=found.labelled,
        outlook=outlook,
        blind=float(last[:, sums.BLIND].sum()) / total,
    )


def _figures(total: NDArray[np.float64], costs: Costs) -> Figures:
    return Figures(
        transactions=float(total[sums.COUNT]),
        reviews=float(total[sums.REVIEWS]),
        declines=float(total[sums.DECLINES]),
        frauds=float(total[sums.FRAUDS]),
        fraud_amount=float(total[sums.FRAUD_AMOUNT]),
        stopped=float(total[sums.STOPPED]),
        missed=float(total[sums.MISSED]),
        false_declines=float(total[sums.FALSE_DECLINES]),
        false_decline_cost=float(total[sums.FALSE_COST]),
        review_cost=costs.review_cost * float(total[sums.REVIEWS]),
    )


def _patterns(found: Sums) -> list[Pattern]:
    """Those with the most fraud money first."""
    this, earlier = found.week(), found.days[:-7].sum(axis=0)
    share = this[sums.FRAUDS] / max(this[sums.COUNT], 1.0)
    share_before = earlier[sums.FRAUDS] / max(earlier[sums.COUNT], 1.0)
    told = []
    looked_at = sum(weeks[-1, 0] > 0 for weeks in found.segments.values())
    certain = NormalDist().inv_cdf(1 - BY_CHANCE / max(looked_at, 1))
    for segment, weeks in found.segments.items():
        count, frauds, amount = weeks[-1]
        if frauds < FEWEST_FRAUDS or lower_share(frauds, count, certain) < LIFT * share:
            continue
        past, past_frauds, _ = weeks[:-1].sum(axis=0)
        was = past_frauds >= FEWEST_FRAUDS and past_frauds / max(past, 1.0) >= LIFT * share_before
        told.append(_pattern(segment, count, frauds, amount, share, is_new=not was))
    return sorted(told, key=lambda each: -each.amount)[:TOP]


def _pattern(segment: Segment, count: float, frauds: float, amount: float, share: float, *, is_new: bool) -> Pattern:
    lift = (frauds / count) / share if share else 0.0
    return Pattern(segment.attribute, segment.value, int(frauds), int(count), float(amount), float(lift), is_new)


def lower_share(hits: float, count: float, certain: float) -> float:
    """The lower end of an interval of a share (Wilson 1927), so many standard deviations wide on each side.

    >>> lower_share(0, 10, 3.3), round(lower_share(50, 100, 3.3), 2)
    (0.0, 0.34)
    """
    if not count or not hits:
        return 0.0
    share, spread = hits / count, certain**2 / count
    half = certain * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (share + spread / 2 - half) / (1 + spread))


def _changes(rollouts: Iterable[Rollout], since_us: int) -> Iterable[Change]:
    words = {
        Kind.promote: "version {champion} decides on everything",
        Kind.rollback: "back to version {champion}",
        Kind.start: "a rollout began beside version {champion}",
        Kind.set: "the shares of a rollout were changed",
        Kind.abort: "a rollout was ended; version {champion} decides on everything",
        Kind.breach: "a guardrail ended a rollout; version {champion} decides on everything",
    }
    for rollout in rollouts:
        change = rollout.change
        at_us = datetime.fromisoformat(change.at).timestamp() * 1e6
        if since_us <= at_us < since_us + WEEK_US:
            yield Change(change.at, words[change.kind].format(champion=rollout.champion), change.by, change.reason)
