"""The estimate as a page: one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fraudml.features.words import seconds_words
from fraudml.monitoring.performance.results import Performance
from fraudml.monitoring.rollouts.resampling import Interval
from fraudml.pages import page
from fraudml.pages.figures import LINES, MARKERS, SERIES, drawing, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DAY_S = 86_400.0


def write(found: Performance, currency: str, directory: Path) -> Path:
    """Write ``performance-<UTC time>.html``, and the same as ``performance.html``; returns the path of the former."""
    return page.write(render(found, currency), directory, "performance")


def render(found: Performance, currency: str) -> str:
    """The estimate as one HTML text."""
    return page.render(
        "fraudml.monitoring.performance",
        "performance.html.j2",
        currency,
        found=found,
        headline=headline(found),
        words=seconds_words,
        plots={"recall": _recall(found), "delays": _delays(found)},
    )


def headline(found: Performance) -> str:
    """What was found, in a sentence or two."""
    if found.recall is None:
        return "How much of the fraud is found cannot be told yet."
    said = f"{share(found.recall)} of the frauds are found"
    if found.raw.recall is not None:
        said += f"; by the labels that are in it would seem to be {found.raw.recall:.1%}"
    if found.maturity is not None:
        said += f". {found.maturity:.0%} of the frauds are reported by now"
    return f"{said}."


def share(interval: Interval) -> str:
    """A share with its interval.

    >>> share(Interval(0.5, 0.4, 0.61))
    '50.0% (40.0% to 61.0%)'
    """
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _recall(found: Performance) -> str:
    """By the age of labels: what is in, and what is to be expected."""
    ages = [(each.from_s + each.to_s) / 2 / DAY_S for each in found.cohorts]
    with drawing("recall", "Share of frauds that are found, by the age of transactions") as drawn:
        axes: Axes = drawn.figure.add_subplot()
        raw = [float("nan") if each.raw_recall is None else 100 * each.raw_recall for each in found.cohorts]
        axes.plot(ages, raw, LINES[1], marker=MARKERS[1], color=SERIES[1], label="by the labels that are in")
        known = [(age, each.recall) for age, each in zip(ages, found.cohorts, strict=True) if each.recall is not None]
        if known:
            axes.errorbar(
                [age for age, _ in known],
                [100 * each.value for _, each in known],
                yerr=[
                    [100 * (each.value - each.low) for _, each in known],
                    [100 * (each.high - each.value) for _, each in known],
                ],
                fmt=MARKERS[0] + LINES[0],
                color=SERIES[0],
                capsize=3,
                label="corrected, with 95 % interval",
            )
        axes.set_ylim(0, 105)
        axes.set_xlabel("age of the transactions, days")
        axes.set_ylabel("% of frauds found")
        legend(drawn.figure, axes)
    return drawn.svg


def _delays(found: Performance) -> str:
    """The share of frauds that is reported by each age."""
    with drawing("delays", "Share of frauds that are reported, by age") as drawn:
        axes: Axes = drawn.figure.add_subplot()
        for number, delay in enumerate(found.delays):
            name = "approved" if delay.kind == "passed" else "reviewed or declined"
            days = [age / DAY_S for age in delay.age_s]
            axes.plot(days, [100 * each for each in delay.share], LINES[number], color=SERIES[number], label=name)
        axes.set_ylim(0, 105)
        axes.set_xlabel("days after the transaction")
        axes.set_ylabel("% of frauds reported")
        if found.delays:
            legend(drawn.figure, axes)
    return drawn.svg
