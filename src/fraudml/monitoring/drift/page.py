"""The drift report for people: one self-contained HTML file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fraudml.monitoring.drift.columns import FeatureDrift
from fraudml.monitoring.drift.compare import DriftReport
from fraudml.monitoring.drift.sample import Period
from fraudml.pages import page
from fraudml.pages.figures import SERIES, drawing, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DRAWN = 12


def write(found: DriftReport, directory: Path) -> Path:
    """Write ``drift-<UTC time>.html``, and the same as ``drift.html``; returns the path of the former."""
    return page.write(render(found), directory, "drift")


def render(found: DriftReport) -> str:
    """The report as one HTML text."""
    drawn = [*([found.score] if found.score is not None else []), *(found.drifted or found.features)[:MOST_DRAWN]]
    plots = [(each, _plot(number, each)) for number, each in enumerate(drawn)]
    return page.render(
        "fraudml.monitoring.drift",
        "drift.html.j2",
        found=found,
        plots=plots,
        reference=words_of(found.reference),
        current=words_of(found.current),
    )


def words_of(period: Period) -> str:
    """A period as people write it."""
    since, until = (
        f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M}" for us in (period.since_us, period.until_us)
    )
    return f"{since} to {until} UTC"


def _plot(number: int, each: FeatureDrift) -> str:
    """The shares of each bin, before and now."""
    kept = [place for place in range(len(each.bins)) if each.before[place] or each.now[place]]
    with drawing(f"drift{number}", f"{each.name}: shares before and now", width=5.6, height=3.2) as drawn:
        axes: Axes = drawn.figure.add_subplot()
        for side, (label, shares) in enumerate((("reference", each.before), ("now", each.now))):
            places = [place + 0.4 * side - 0.2 for place in range(len(kept))]
            hatch = "//" if side else None
            axes.bar(
                places, [100 * shares[place] for place in kept], 0.38, color=SERIES[side], label=label, hatch=hatch
            )
        axes.set_xticks(
            range(len(kept)), [each.bins[place][:18] for place in kept], rotation=40, ha="right", fontsize=7
        )
        axes.set_ylabel("% of decisions")
        axes.grid(visible=False, axis="x")
        legend(drawn.figure, axes)
    return drawn.svg
