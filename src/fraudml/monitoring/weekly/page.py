"""The weekly report as a page: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fraudml.monitoring.weekly.week import HEAVY, Week
from fraudml.pages import page
from fraudml.pages.figures import SERIES, drawing, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MATURE = 0.95  # of a week's frauds that are reported: then nothing more is said of the others
REPEATS = 0.2  # of those who were hit were so again: worth a word


def write(week: Week, directory: Path) -> Path:
    """Write ``weekly-<UTC time>.html``, and the same as ``weekly.html``; returns the path of the former."""
    return page.write(render(week), directory, "weekly")


def render(week: Week) -> str:
    """The report as one HTML text."""
    money = week.currency or "currency units"
    plots = {
        "money": _bars(
            "money",
            f"Fraud a day, {money}",
            week.days,
            ("stopped", week.stopped_by_day),
            ("missed", week.missed_by_day),
        ),
        "frauds": _bars("frauds", "Frauds a day", week.days, ("frauds known by now", week.frauds_by_day)),
    }
    return page.render(
        "fraudml.monitoring.weekly",
        "weekly.html.j2",
        week.currency,
        week=week,
        plots=plots,
        headline=headline(week),
        advice=advice(week),
    )


def headline(week: Week) -> str:
    """The week in two or three sentences."""
    this = week.this
    if not this.transactions:
        return "There were no transactions in this week."
    flagged = this.reviews + this.declines
    said = (
        f"{flagged:,.0f} of {this.transactions:,.0f} transactions were stopped or looked at. "
        f"That saved {money(this.saved, week)}"
    )
    if not this.frauds:
        return f"{said}, as far as is known: no fraud of this week is reported yet."
    said += f", after costs. {money(this.missed, week)} of fraud got through that is known by now"
    if week.outlook is None or week.outlook.maturity > MATURE:
        return f"{said}."
    said += f"; about {week.outlook.maturity:.0%} of this week's frauds are reported"
    expected = week.outlook.missed
    if expected is None:
        return f"{said}."
    return f"{said}, so expect {money(expected.low, week)} to {money(expected.high, week)} in the end."


def advice(week: Week) -> list[str]:
    """What to do next, most pressing first."""
    said = []
    if week.blind > HEAVY:
        said.append(f"{week.blind:.1%} of decisions were made without history: ask the engineers what was down.")
    new = [each for each in week.patterns if each.is_new]
    if new:
        said.append(f"Look at what is new: {new[0].attribute} {new[0].value}, {new[0].frauds} frauds.")
    for each in week.repeats:
        if each.again >= 5 and each.again > REPEATS * each.hit:
            hit = f"{each.again:,} of {each.hit:,} that were hit ({each.entity})"
            said.append(f"{hit} were so more than once: block them sooner.")
    if week.this.missed > 1.5 * max(week.average.missed, 1.0) and week.this.missed > week.this.stopped:
        said.append("More fraud got through than was stopped: ask for a model that is trained on recent frauds.")
    if week.this.false_decline_cost > week.this.stopped and week.this.false_declines:
        said.append("Declining cost more than it saved: ask for a higher threshold.")
    if not week.this.frauds and week.this.transactions:
        said.append("No fraud of this week is reported yet: read this report again in two weeks.")
    return said or ["Nothing that cannot wait."]


def money(value: float, week: Week) -> str:
    """An amount of money as people write it."""
    return f"{value:,.0f} {week.currency}".rstrip()


def _bars(name: str, title: str, days: Sequence[str], *series: tuple[str, Sequence[float]]) -> str:
    """A bar for each day and series."""
    width = 0.8 / len(series)
    with drawing(name, title, width=6.0, height=3.2) as drawn:
        axes: Axes = drawn.figure.add_subplot()
        for number, (label, values) in enumerate(series):
            places = [day + width * (number - (len(series) - 1) / 2) for day in range(len(days))]
            hatch = "//" if number else None
            axes.bar(places, values, 0.95 * width, color=SERIES[number], label=label, hatch=hatch)
        axes.set_xticks(range(len(days)), days)
        axes.set_ylim(0, max(1.0, 1.1 * max(max(values) for _, values in series)))
        axes.grid(visible=False, axis="x")
        if len(series) > 1:
            legend(drawn.figure, axes)
    return drawn.svg
