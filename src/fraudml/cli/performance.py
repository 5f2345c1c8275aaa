"""``fraudml performance``: how well fraud is found, corrected for labels that are not in yet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, moment_us, read_project
from fraudml.events.units import parse_duration

if TYPE_CHECKING:
    from fraudml.monitoring.performance.results import Performance
    from fraudml.monitoring.rollouts.resampling import Interval


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("performance")(performance)


def performance(
    window: Annotated[str, typer.Option(help="Length of the period of transactions that is looked at.")] = "28d",
    until: Annotated[
        str | None, typer.Option(help="End of the period: a time with its zone, or so long ago; default: now.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only decisions of this version of the model.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Directory for the page; default: reports in the home directory.")
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Estimate recall, precision and loss from labels that are partly in, with intervals; write a report."""
    import msgspec

    from fraudml.monitoring import jobs
    from fraudml.monitoring.drift.sample import newest_us
    from fraudml.monitoring.performance import page
    from fraudml.monitoring.performance.estimate import estimate
    from fraudml.monitoring.performance.sums import Window

    declared, current = read_project(project_file)
    length_us, now_us = parse_duration(window), time.time_ns() // 1_000
    until_us = None if until is None else moment_us(until)
    log = wiring.decision_log(current, declared.schema)
    try:
        newest = newest_us(log)
        if newest is None:
            _say_empty(as_json)
            return
        if until_us is None:  # after a replay of history, which may be older than the whole period: its end
            until_us = now_us if newest > now_us - length_us else newest + 1
        asked = Window(until_us - length_us, until_us, now_us, model)
        with output.steps(quiet=as_json) as steps:
            whose, maturity_us = jobs.project_of(declared.schema, declared.costs)
            found = estimate(log, whose, asked, maturity_us, steps.step)
    finally:
        log.close()
    written = page.write(found, declared.schema.currency, report or current.home / "reports")
    if as_json:
        output.result({**msgspec.to_builtins(found), "headline": page.headline(found)})
        return
    _show(found, page.headline(found))
    output.remarks.print(f"Report: {written}", markup=False)


def _say_empty(as_json: bool) -> None:
    said = "There are no decisions yet: serve the model, or score with it, and report labels."
    if as_json:
        output.result({"headline": said, "decisions": 0})
    else:
        output.results.print(said, markup=False)


def _show(found: Performance, headline: str) -> None:
    output.results.print(headline, markup=False)
    for note in found.notes:
        output.remarks.print(f"Note: {note}.", style="yellow", markup=False)
    raw = found.raw
    rows = [
        ["frauds found (recall)", _share(found.recall), "" if raw.recall is None else f"{raw.recall:.1%}"],
        ["frauds of what is stopped", _share(found.precision), "" if raw.precision is None else f"{raw.precision:.1%}"],
        ["lost by missed frauds, a day", _money(found.loss_per_day), f"{raw.loss_per_day or 0:,.0f}"],
        ["lost by false declines, a day", _money(found.false_decline_cost_per_day), ""],
        ["ROC AUC, mature labels", _share(found.roc_auc), ""],
        ["average precision, mature labels", _share(found.pr_auc), ""],
    ]
    output.table(["", "corrected (95 % interval)", "by the labels that are in"], rows)


def _share(interval: Interval | None) -> str:
    from fraudml.monitoring.performance import page

    return "not known" if interval is None else page.share(interval)


def _money(interval: Interval | None) -> str:
    if interval is None:
        return "not known"
    return f"{interval.value:,.0f} ({interval.low:,.0f} to {interval.high:,.0f})"
