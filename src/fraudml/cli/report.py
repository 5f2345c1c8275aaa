"""``fraudml report``: a week for people who decide."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("report")(report)


def report(
    week: Annotated[
        str | None,
        typer.Option(help="The week (UTC), such as 2026-W48; default: the last one with transactions that is over."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the page; default: reports in the home directory.")
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the weekly report: money saved, missed and wrongly declined, patterns, changes of models."""
    import msgspec

    from fraudml.monitoring.drift.sample import newest_us
    from fraudml.monitoring.weekly import page, sums
    from fraudml.monitoring.weekly import week as weeks
    from fraudml.monitoring.weekly.outlook import outlook

    declared, current = read_project(project_file)
    now_us = time.time_ns() // 1_000
    asked_us = None if week is None else weeks.monday_us(week, now_us)
    log = wiring.decision_log(current, declared.schema)
    try:
        since_us = weeks.last_us(now_us, newest_us(log)) if asked_us is None else asked_us
        with output.steps(quiet=as_json) as steps:
            with steps.step("Read five weeks") as progress:
                found = sums.read(log, declared.schema, declared.costs, since_us, progress)
            expected = outlook(log, declared.schema, declared.costs, since_us, now_us, steps.step)
    finally:
        log.close()
    rollouts = wiring.registry(current).rollouts()
    made = weeks.week(found, since_us, declared.costs, declared.schema.currency, rollouts, expected)
    written = page.write(made, out or current.home / "reports")
    if as_json:
        figures = {
            name: {**msgspec.to_builtins(getattr(made, name)), "saved": getattr(made, name).saved}
            for name in ("this", "before", "average")
        }
        output.result({**msgspec.to_builtins(made), **figures, "headline": page.headline(made), "path": str(written)})
        return
    output.results.print(page.headline(made), markup=False)
    for line in page.advice(made):
        output.results.print(f"- {line}", markup=False)
    output.remarks.print(f"Report: {written}", markup=False)
