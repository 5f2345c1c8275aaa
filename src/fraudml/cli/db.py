"""``fraudml db``: the tables of the decision log's database."""

from __future__ import annotations

from typing import Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson
from fraudml.settings import settings

app = typer.Typer(help="Show and upgrade the tables of the decision log's database.", no_args_is_help=True)


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="db")


@app.command("upgrade")
def upgrade(as_json: AsJson = False) -> None:
    """Bring the database to the tables of this version; services of the version before go on meanwhile."""
    before = wiring.upgrade_database(settings())
    if as_json:
        output.result(_told(wiring.database(settings())) | {"done": _steps(before)})
        return
    for step in before.tables.missing:
        output.results.print(f"{step.revision}: {step.title}", markup=False)
    output.results.print(f"{before.place} is at revision {before.tables.current}.", markup=False)


@app.command("status")
def status(as_json: AsJson = False) -> None:
    """Say which tables the database has; exit code 1 when they are not those of this version."""
    found = wiring.database(settings())
    tables = found.tables
    if as_json:
        output.result(_told(found))
    elif tables.missing:
        has = f"is at revision {tables.found}" if tables.found else "has no tables yet"
        output.results.print(f"{found.place} {has}; this version needs {tables.current}. Missing:", markup=False)
        for step in tables.missing:
            output.results.print(f"  {step.revision}: {step.title}", markup=False)
        output.results.print("Run: fraudml db upgrade")
    else:
        output.results.print(f"{found.place} is at revision {tables.current}: up to date.", markup=False)
    if tables.missing:
        raise typer.Exit(1)


def _told(found: wiring.Database) -> dict[str, Any]:
    return {
        "database": found.place,
        "revision": found.tables.found,
        "current": found.tables.current,
        "up_to_date": not found.tables.missing,
        "missing": _steps(found),
    }


def _steps(found: wiring.Database) -> list[dict[str, str]]:
    return [{"revision": step.revision, "title": step.title} for step in found.tables.missing]
