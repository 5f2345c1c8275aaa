"""``fraudml db``: the tables of the decision log's database."""

from __future__ import annotations

from typing import Any

import typer

from fraudml import project, wiring
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
    said: list[str] = []
    before = wiring.upgrade_database(settings(), _needed_us(), said.append if as_json else _remark)
    if as_json:
        output.result(_told(wiring.database(settings())) | {"done": _steps(before), "said": said})
        return
    for step in before.tables.missing:
        output.results.print(f"{step.revision}: {step.title}", markup=False)
    output.results.print(f"{before.place} is at revision {before.tables.current}.", markup=False)


@app.command("status")
def status(as_json: AsJson = False) -> None:
    """Say which tables the database has; exit code 1 when they are not those of this version, or TimescaleDB is not as
    the settings say."""
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
    if not as_json and not tables.missing and found.timescale is not None:
        _show_timescale(found)
    if tables.missing or found.differs:
        raise typer.Exit(1)


@app.command("retain")
def retain(as_json: AsJson = False) -> None:
    """Remove decisions older than FRAUDML_RETAIN_DAYS from PostgreSQL; TimescaleDB does it by itself."""
    removed = wiring.remove_old(settings(), _needed_us())
    if as_json:
        output.result({"removed": removed and removed[0], "before": removed and removed[1]})
    elif removed is None:
        output.results.print("TimescaleDB removes old decisions by itself, every day.")
    else:
        output.results.print(f"Removed {removed[0]:,} decisions of before {removed[1]}.", markup=False)


def _needed_us() -> int:
    """How long the project needs decisions to be kept; 0 where there is none, as on a machine that only upgrades."""
    current = settings()
    if current.retain_days is None:
        return 0
    if not current.project.exists():
        _remark(f"there is no {current.project} here: whether its features need more days cannot be told")
        return 0
    return wiring.kept_at_least_us(current, project.read(current.project))


def _show_timescale(found: wiring.Database) -> None:
    if not found.differs:
        output.results.print(f"TimescaleDB {found.timescale} is as the settings say.", markup=False)
        return
    output.results.print(f"TimescaleDB {found.timescale} is not as the settings say:", markup=False)
    for line in found.differs:
        output.results.print(f"  {line}", markup=False)
    output.results.print("Run: fraudml db upgrade")


def _told(found: wiring.Database) -> dict[str, Any]:
    return {
        "database": found.place,
        "revision": found.tables.found,
        "current": found.tables.current,
        "up_to_date": not found.tables.missing and not found.differs,
        "missing": _steps(found),
        "timescale": {"version": found.timescale, "differs": list(found.differs)},
    }


def _remark(text: str) -> None:
    output.remarks.print(text, markup=False, soft_wrap=True)


def _steps(found: wiring.Database) -> list[dict[str, str]]:
    return [{"revision": step.revision, "title": step.title} for step in found.tables.missing]
