"""What a person or a machine sees of a command: progress and tables on the terminal, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fraudml.events.source import Progress as Report

# Progress and remarks go to standard error: standard output is the result, to be piped.
# A pipe has no width; tables and progress need more than the 80 columns that are assumed for it.
PIPE_WIDTH = 120
remarks = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)
results = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def result(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a result as JSON on standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    grid = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numbers = bool(rows) and all(row[i][:1].isdigit() or row[i][:1] == "-" for row in rows)
        grid.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        # not markup: a column of somebody's file may be called [/b]; what is too long goes on in the next line
        grid.add_row(*(Text(cell, overflow="fold") for cell in row))
    results.print(grid)


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        unit = task.fields.get("unit", "rows")
        return Text(f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.1f} {unit}/s", style="cyan")


class Steps:
    """The steps of a long command, one line each, with rate and time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def step(self, name: str, unit: str = "rows", total: int | None = None) -> Iterator[Report]:
        """A step that reports ``(done, total)``; it is shown as done when the block ends."""
        task = self._progress.add_task(name, total=total, unit=unit)

        def report(done: int, total: int | None) -> None:
            self._progress.update(task, completed=done, total=total)

        yield report
        ended = self._progress.tasks[task]
        done = ended.total if ended.total is not None else max(ended.completed, 1)
        self._progress.update(task, total=done, completed=done)


@contextmanager
def steps(*, quiet: bool = False) -> Iterator[Steps]:
    """Shows the progress of the steps run inside; on a pipe only the finished lines are kept."""
    progress = Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=remarks,
        disable=quiet,
    )
    with progress:
        yield Steps(progress)
