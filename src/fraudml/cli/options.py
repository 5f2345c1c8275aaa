"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fraudml import project
from fraudml.cli.output import remarks
from fraudml.errors import ConfigError
from fraudml.events.source import Rejects
from fraudml.settings import Settings, settings

ProjectFile = Annotated[
    Path | None,
    typer.Option("--project", "-p", help="The project file (default: fraudml.yaml).", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]


def read_project(path: Path | None) -> tuple[project.Project, Settings]:
    """The project in use and the settings."""
    current = settings()
    return project.read(path or current.project), current


def source_paths(given: list[str] | None, declared: project.Project) -> list[str]:
    """The files named on the command line, else the project's own."""
    if given:
        return given
    if declared.source:
        return list(declared.source)
    raise ConfigError("name a file of transactions; fraudml.yaml has no 'source'")


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
