"""``fraudml warehouse``: decisions and labels into Snowflake, BigQuery or Parquet files."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.errors import ConfigError
from fraudml.events.units import parse_duration

if TYPE_CHECKING:
    from fraudml.operations.sync import Exported
    from fraudml.project import Project
    from fraudml.settings import Settings

app = typer.Typer(help="Export decisions and labels into a warehouse, or as Parquet files.", no_args_is_help=True)
MICROSECONDS = 1_000_000


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="warehouse")


@app.command("sync")
def sync(
    lag: Annotated[float, typer.Option(min=0, help="Leave out what arrived less than so many seconds ago.")] = 60.0,
    recheck: Annotated[
        float, typer.Option(min=0, help="Look again for rows of so many seconds before the last one exported.")
    ] = 3600.0,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows in one transaction of the warehouse.")] = 100_000,
    every: Annotated[
        str | None, typer.Option(help="Do it again and again, so long apart, until SIGTERM: 60s, 15min.")
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Export what the decision log has got since the last export, each row exactly once.

    It may be interrupted and run again at any time; only one should run at a time. With --every, failures are said
    and tried again after ever longer pauses; without, they end it.
    """
    from fraudml.cli.repeating import asked_to_end, repeat

    declared, current = read_project(project_file)
    options = (int(lag * MICROSECONDS), int(recheck * MICROSECONDS), batch_rows)
    if every is None:
        _tell(*_export(declared, current, *options, quiet=as_json), as_json=as_json)
        return
    pause_us = parse_duration(every)
    if pause_us < MICROSECONDS:
        raise ConfigError("--every must be at least 1s")
    with asked_to_end() as ending:

        def once() -> None:
            exported, seconds = _export(declared, current, *options, quiet=True, stopped=lambda: ending.is_asked)
            if as_json or any(done.rows for done in exported.values()):
                _tell(exported, seconds, as_json=as_json)

        repeat(once, pause_us / MICROSECONDS, ending)


@app.command("query")
def query(project_file: ProjectFile = None) -> None:
    """Print the SQL by which DuckDB reads exported Parquet files as history to train on.

    Columns are called and written as the project's schema has them. Each transaction has its first label report, and
    when that became known.
    """
    from fraudml.operations.history_query import history_query

    declared, current = read_project(project_file)
    typer.echo(history_query(declared.schema, wiring.exported_files(current)))


def _export(
    declared: Project,
    current: Settings,
    lag_us: int,
    recheck_us: int,
    batch_rows: int,
    *,
    quiet: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Exported], float]:
    """What one export did, and how many seconds it took."""
    from fraudml.decisions.warehouse import DECISIONS, LABELS
    from fraudml.operations import sync as export

    started = time.perf_counter()
    until = time.time_ns() // 1_000 - lag_us
    with (
        closing(wiring.warehouse(current)) as warehouse,
        closing(wiring.decision_log(current, declared.schema)) as log,
        output.steps(quiet=quiet) as steps,
        steps.step("Export decisions") as decisions,
        steps.step("Export labels") as labels,
    ):
        exported = export.sync(
            log,
            warehouse,
            declared.schema,
            until=until,
            recheck_us=recheck_us,
            batch_size=batch_rows,
            progress={DECISIONS: decisions, LABELS: labels},
            stopped=stopped,
        )
    return exported, time.perf_counter() - started


def _tell(exported: dict[str, Exported], seconds: float, *, as_json: bool) -> None:
    import msgspec

    rows = sum(done.rows for done in exported.values())
    if as_json:
        tables = {table: msgspec.structs.asdict(done) for table, done in exported.items()}
        output.result({**tables, "seconds": seconds, "rows_per_s": rows / seconds})
        return
    said = ", ".join(f"{done.rows:,} {table}" for table, done in exported.items())
    late = sum(done.late for done in exported.values())
    output.remarks.print(f"{said} in {seconds:.1f} s ({rows / seconds:,.0f} rows/s)", highlight=False)
    if late:
        output.remarks.print(f"{late:,} of these came late, from before what was exported last", highlight=False)
