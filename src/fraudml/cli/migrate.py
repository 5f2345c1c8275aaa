"""``fraudml migrate``: from one decision log to another."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from fraudml.decisions.log import DecisionLog
    from fraudml.project import Project
    from fraudml.settings import Settings

STILL_WRITTEN = 3  # the exit code


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("migrate")(migrate)


def migrate(
    source: Annotated[str | None, typer.Option("--from", help="URL of the log; default: the one in use.")] = None,
    target: Annotated[
        str | None, typer.Option("--to", help="URL of the log to fill; default: FRAUDML_DATABASE_URL.")
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy transactions, decisions, labels and API keys into another database, and compare both.

    It may be interrupted and run again. While a service writes to the source it copies the decisions that are there and
    ends with exit code 3: stop all services and run it again for the rest.
    """
    from fraudml.operations import migrate as moving

    declared, current = read_project(project_file)
    origin, destination = _of(current, source), _of(current, target)
    if origin.log_url() == destination.log_url():
        raise ConfigError("--from and --to name the same database; leave out the one that the settings name")
    with ExitStack() as opened, output.steps(quiet=as_json) as steps:
        old = opened.enter_context(closing(wiring.decision_log(origin, declared.schema)))
        new = opened.enter_context(closing(wiring.decision_log(destination, declared.schema)))
        new.claim()
        idle = _claims(old, origin, declared)
        with steps.step("Copy", unit="decisions") as progress:
            copied = moving.copy(old, new, progress, idle=idle)
        if not idle:
            told = f"{copied:,} decisions copied; a service still writes to the source: stop all and run this again"
            output.remarks.print(told, style="yellow", markup=False)
            raise typer.Exit(STILL_WRITTEN)
        with steps.step("Compare", unit="decisions") as progress:
            before, after = moving.contents(old, progress), moving.contents(new, progress)
    if before != after:
        raise ConflictError(
            f"source and target differ ({before.decisions:,} and {after.decisions:,} decisions, {before.labels:,} and "
            f"{after.labels:,} labels, {before.keys} and {after.keys} keys): migrate into an empty database"
        )
    if as_json:
        counts = {"decisions": after.decisions, "labels": after.labels, "keys": after.keys}
        output.result({"copied": copied, **counts, "sha256": after.sha256})
        return
    output.remarks.print(
        f"{copied:,} decisions copied; both have {after.decisions:,} decisions, {after.labels:,} label reports and "
        f"{after.keys} keys, and the same hash of all of it."
    )
    output.remarks.print("Next: set FRAUDML_DATABASE_URL to the new database and start the service.")


def _of(current: Settings, url: str | None) -> Settings:
    return current if url is None else current.model_copy(update={"database_url": SecretStr(url)})


def _claims(log: DecisionLog, settings: Settings, declared: Project) -> bool:
    """Whether nobody else writes to the log; then what its journals hold is put into it."""
    from fraudml.decisions.recorder import Recorder

    try:
        log.claim()
    except ConfigError:
        return False
    own, left = wiring.journals(settings, declared.schema)
    for journal in (own, *left):
        with closing(journal):
            Recorder(log, journal).replay()
    return True
