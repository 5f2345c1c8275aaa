"""What of a week is still to come: frauds that are not reported yet, as ``fraudml performance`` estimates them."""

from __future__ import annotations

import msgspec

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import DecisionLog
from fraudml.errors import NotFoundError
from fraudml.events.schema import Schema
from fraudml.monitoring import jobs
from fraudml.monitoring.performance.estimate import Step, estimate
from fraudml.monitoring.performance.sums import Window
from fraudml.monitoring.rollouts.resampling import Interval
from fraudml.monitoring.weekly.sums import WEEK_US


class Outlook(msgspec.Struct, frozen=True):
    """``maturity``: share of the week's frauds that is reported by now, as estimated. ``missed``: loss by frauds that
    got through, once all are reported, in currency units; None where too few are known to say."""

    maturity: float
    missed: Interval | None


def outlook(log: DecisionLog, schema: Schema, costs: Costs, since_us: int, now_us: int, step: Step) -> Outlook | None:
    """Of the week from ``since_us`` on; None where nothing is known of how long reports take."""
    whose, maturity_us = jobs.project_of(schema, costs)
    until_us = min(since_us + WEEK_US, now_us)
    if until_us <= since_us:
        return None
    try:
        found = estimate(log, whose, Window(since_us, until_us, now_us), maturity_us, step)
    except NotFoundError:
        return None
    if found.maturity is None:
        return None
    daily, days = found.loss_per_day, WEEK_US / 86_400_000_000
    missed = daily and Interval(*(days * each for each in (daily.value, daily.low, daily.high)))
    return Outlook(found.maturity, missed)
