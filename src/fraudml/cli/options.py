"""Options that several commands share."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fraudml import project
from fraudml.cli.output import remarks
from fraudml.errors import ConfigError
from fraudml.events import address
from fraudml.events.source import Rejects
from fraudml.events.units import parse_duration
from fraudml.settings import Settings, settings

ProjectFile = Annotated[
    Path | None,
    typer.Option("--project", "-p", help="The project file (default: fraudml.yaml).", show_default=False),
]
Query = Annotated[
    str | None, typer.Option("--query", help="A SELECT to read instead of a table, of the database that a URL names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]


def read_project(path: Path | None) -> tuple[project.Project, Settings]:
    """The project in use and the settings."""
    current = settings()
    return project.read(path or current.project), current


def source_paths(given: list[str] | None, declared: project.Project, query: str | None = None) -> list[str]:
    """The files or URLs named on the command line, else the project's own."""
    if given or query is not None:
        return with_query(given or [], query)
    if declared.source:
        return list(declared.source)
    raise ConfigError("name a file of transactions; fraudml.yaml has no 'source'")


def with_query(given: list[str], query: str | None) -> list[str]:
    """What was named, with the query as a part of its URL."""
    if query is None:
        return given
    if len(given) != 1:
        raise ConfigError("--query goes with the URL of one database, such as postgresql://user@host/database")
    return [address.with_query(given[0], query)]


def moment_us(text: str) -> int:
    """Microseconds of a time with its zone, or of so long ago."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return time.time_ns() // 1_000 - parse_duration(text)
    if moment.tzinfo is None:
        raise ConfigError(f"{text!r} has no time zone: write {text}Z, or {text}+02:00")
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds  # exact: not by way of a double


def rejects_path(current: Settings, command: str) -> Path:
    """Where a command writes the rows it refuses."""
    return current.home / "rejects" / f"{command}.csv"


def tell_rejects(rejects: Rejects) -> None:
    """Say how many rows were refused, why, and where they are."""
    if not rejects.count:
        return
    reasons = "; ".join(
        f"{count:,} x {reason}" for reason, count in sorted(rejects.reasons.items(), key=lambda r: -r[1])[:5]
    )
    told = f"{rejects.count:,} of {rejects.rows:,} rows were refused ({reasons}); see {rejects.path}"
    remarks.print(told, style="yellow", markup=False)
