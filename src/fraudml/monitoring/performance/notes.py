"""What a reader must know about the figures, in words: what is missing, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from fraudml.features.words import seconds_words
from fraudml.monitoring.performance.delays import FEWEST_FRAUDS, KINDS
from fraudml.monitoring.performance.results import DeclinesKnown, Feed, Performance
from fraudml.monitoring.rollouts.resampling import FEWEST_GROUPS

_WORDS = {"passed": "approved", "checked": "reviewed or declined"}
MUCH = 0.05  # of all reports


def notes(found: Performance, learnable: Callable[[int], bool], maturity_us: int | None) -> Performance:
    """The result with its notes, the most important first."""
    said = [*_feed(found.feed, found.as_of_us)]
    if not found.feed.reports:
        said.append("no label has been reported, so nothing can be said; report labels with POST /v1/labels")
    elif not found.frauds:
        said.append("no fraud is reported among these transactions: recall and precision need some")
    else:
        said += [
            f"fewer than {FEWEST_FRAUDS} frauds that were {_WORDS[KINDS[kind]]} are reported: how long their labels "
            "take cannot be learnt, so figures that depend on it are not given"
            for kind in (0, 1)
            if not learnable(kind) and not found.feed.stopped
        ]
        if found.delays and found.recall is None and all(learnable(kind) for kind in (0, 1)):
            said.append(f"fewer than {FEWEST_GROUPS} entities have reported frauds: too few for a figure")
        said += _reach(found, maturity_us)
    if found.declines.known is DeclinesKnown.unknown and found.frauds:
        said.append(
            f"{found.declines.unlabelled:,} declines have no label and are not explored: recall counts declines as far "
            "as they are labelled, precision is of the others, and what false declines cost and how well scores rank "
            "cannot be known; let a few through: fraudml rollout set --explore 1%"
        )
    return msgspec.structs.replace(found, notes=said)


def _feed(feed: Feed, as_of_us: int) -> list[str]:
    """What is odd about the reports."""
    said = []
    if feed.stopped and feed.newest_fraud_us is not None:
        at = f"{datetime.fromtimestamp(feed.newest_fraud_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"
        used = "figures are as of then" if as_of_us == feed.newest_fraud_us else "no figure can be given"
        said.append(
            f"no fraud has been reported since {at}, and {feed.expected or 0:,.0f} reports were to be expected: "
            f"{used}; look at what sends labels"
        )
    if feed.ahead:
        said.append(
            f"{feed.ahead:,} reports are dated after now and are not counted: look at the clocks of this machine and "
            "of those that send transactions and labels"
        )
    if feed.impossible:
        said.append(
            f"{feed.impossible:,} labels were known before their transaction, which cannot be: they count as reported "
            "at once; look at the clocks of those that send them"
        )
    if feed.backlog > MUCH * feed.reports:
        said.append(
            f"{feed.backlog:,} of {feed.reports:,} reports arrived more than a week after their labels were known, and "
            "count from when they were known; if every label comes so late, figures of young transactions are too low"
        )
    return said


def _reach(found: Performance, maturity_us: int | None) -> list[str]:
    """Delays that the history is too short to show."""
    if maturity_us is None or not found.delays:
        return []
    seen_s = min(delay.seen_up_to_s for delay in found.delays)
    if seen_s * 1e6 >= maturity_us:
        return []
    return [
        f"delays of more than {seconds_words(seen_s)} could not be seen yet, while labels may take "
        f"{seconds_words(maturity_us / 1e6)}: frauds that are reported later still are not in the figures"
    ]
