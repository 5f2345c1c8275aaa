"""One plain sentence of what a comparison allows to conclude."""

from __future__ import annotations

import math

from fraudml.monitoring.rollouts.resampling import Interval
from fraudml.monitoring.rollouts.results import Comparison

FEWEST_DEFRAUDED = 20  # entities in each arm; below, an interval of money is not to be trusted
LONGEST_FACTOR = 20  # of the time so far; a promise of more is none


def conclude(comparison: Comparison, name: str) -> str:
    """What can be said of the challenger, called ``name`` at the start of a sentence."""
    obstacle = _obstacle(comparison)
    if obstacle:
        return obstacle
    total = comparison.figure("total_cost").difference
    if total is not None:
        return _verdict(total, comparison.days, name, "costs", ("promote it", "abort it"))
    loss = comparison.figure("fraud_loss").difference
    if loss is None:
        return "Nothing can be concluded: there is no figure of money."
    declines = comparison.champion.unknown_declines + comparison.challenger.unknown_declines
    said = _verdict(loss, comparison.days, name, "loses to fraud", ("that is half of the picture", "abort it"))
    return (
        f"{said} What declines cost cannot be known: {declines:,} of them were not let through for measurement "
        "(set exploration)."
    )


def _obstacle(comparison: Comparison) -> str:
    """Why nothing can be concluded, if so."""
    champion, challenger, split = comparison.champion, comparison.challenger, comparison.split
    if split.flagged:
        return (
            f"Nothing can be concluded: {split.challenger:,} of {split.champion + split.challenger:,} entities are in "
            f"the challenger's arm where {split.expected_challenger:,.0f} are expected (p = {split.p_value:.1g}); find "
            "out why the split is off."
        )
    for arm in (champion, challenger):
        if not arm.decisions:
            return f"Nothing can be concluded yet: the arm {arm.arm} has no mature decision."
    if not comparison.reports:
        return "Nothing can be concluded: no label was reported for either arm."
    fewest = min(champion.defrauded, challenger.defrauded)
    if fewest < FEWEST_DEFRAUDED:
        more = _days(comparison.days * (FEWEST_DEFRAUDED / fewest - 1)) if fewest else "an unknown number of days"
        return (
            f"Nothing can be concluded yet: an arm has only {fewest} entities with a known fraud and "
            f"{FEWEST_DEFRAUDED} are needed, {more} more at this traffic."
        )
    return ""


def _verdict(difference: Interval, days: float, name: str, does: str, advice: tuple[str, str]) -> str:
    """A sentence about money per 1,000 transactions, where less is better."""
    low, high = sorted((abs(difference.low), abs(difference.high)))
    if difference.low > 0 or difference.high < 0:
        word, what = ("less", advice[0]) if difference.high < 0 else ("more", advice[1])
        return (
            f"{name} {does} {abs(difference.value):.2f} {word} per 1,000 transactions "
            f"(95 %: {low:.2f} to {high:.2f}); {what}."
        )
    half = (difference.high - difference.low) / 2
    factor = (half / abs(difference.value)) ** 2 if difference.value else math.inf
    seen = f"{name} {does} {difference.value:+.2f} per 1,000 transactions (95 %: {difference.low:+.2f} to "
    seen += f"{difference.high:+.2f})"
    if factor <= LONGEST_FACTOR:
        more = _days(max(days * (factor - 1), 1.0))
        return f"Nothing can be concluded yet: {seen}; if that is the truth, {more} more at this traffic would show it."
    return f"Nothing can be concluded: {seen}; a difference, if there is any, is too small for this traffic."


def _days(days: float) -> str:
    """About how many days.

    >>> _days(0.2), _days(3.2)
    ('about 1 day', 'about 4 days')
    """
    whole = max(1, math.ceil(days))
    return f"about {whole:,} day{'s' if whole > 1 else ''}"
