"""``fraudml drift``: whether data and scores are still distributed as they were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, moment_us, read_project
from fraudml.errors import ConfigError
from fraudml.events.units import parse_duration

if TYPE_CHECKING:
    from fraudml.monitoring.drift.columns import FeatureDrift
    from fraudml.monitoring.drift.compare import DriftReport

SHOWN = 15
FOUND = 1  # the exit code with --fail-on-drift


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("drift")(drift)


def drift(
    current: Annotated[str, typer.Option(help="Length of the period that is looked at.")] = "1d",
    reference: Annotated[str, typer.Option(help="Length of the reference, directly before it; whole weeks.")] = "28d",
    until: Annotated[
        str | None, typer.Option(help="End of the period: a time with its zone, or so long ago; default: now.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Directory for the report; default: reports in the home directory.")
    ] = None,
    fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="Exit code 1 where drift was found.")] = False,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare features, scores and volume of the last day with the weeks before, by the log; write a report."""
    import msgspec

    from fraudml.monitoring.drift import compare, page

    declared, settings = read_project(project_file)
    lengths = parse_duration(current), parse_duration(reference)
    if min(lengths) <= 0:
        raise ConfigError("a period has to be longer than nothing, such as 1d")
    until_us = None if until is None else moment_us(until)
    log = wiring.decision_log(settings, declared.schema)
    try:
        with output.steps(quiet=as_json) as steps, steps.step("Read decisions") as progress:
            before, now, notes = compare.periods(log, current_us=lengths[0], reference_us=lengths[1], until_us=until_us)
            found = compare.compare(
                log,
                declared.feature_set,
                before,
                now,
                notes=notes,
                ahead_us=int(settings.max_ahead_s * 1e6),
                progress=progress,
            )
    finally:
        log.close()
    written = page.write(found, report or settings.home / "reports")
    if as_json:
        output.result({**msgspec.to_builtins(found), "drifted": [each.name for each in found.drifted]})
    else:
        _show(found)
        output.remarks.print(f"Report: {written}", markup=False)
    if fail_on_drift and found.verdict == compare.DRIFTED:
        raise typer.Exit(FOUND)


def _show(found: DriftReport) -> None:
    output.results.print(found.words, markup=False)
    for note in found.notes:
        output.remarks.print(f"Note: {note}.", style="yellow", markup=False)
    if found.volume_ratio is not None:
        output.results.print(
            f"{found.rows_now:,} decisions, {found.volume_ratio:.2f} times as many an hour as in the reference "
            f"({found.rows_before:,} compared).",
            markup=False,
        )
    features = [*([found.score] if found.score is not None else []), *found.features]
    if features:
        rows = [_row(each) for each in features[:SHOWN]]
        output.table(["feature", "index", "adjusted p", "missing", "before", "drifted"], rows)


def _row(each: FeatureDrift) -> list[str]:
    p = "-" if each.p is None else f"{each.p:.2g}"
    missing = [f"{share:.1%}" for share in (each.missing_now, each.missing_before)]
    return [each.name, f"{each.psi:.3f}", p, *missing, "; ".join(each.why) or "no"]
