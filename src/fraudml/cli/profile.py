"""``fraudml profile``: where a live process spends its time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fraudml.cli import output
from fraudml.cli.options import AsJson


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("profile")(profile)


def profile(
    pid: Annotated[int, typer.Option(help="The process: of fraudml serve, a worker or the monitor.")],
    seconds: Annotated[int, typer.Option(help="How long to look, 1 to 120 seconds.")] = 10,
    rate: Annotated[int, typer.Option(help="Samples a second, 1 to 250; each stops the process for a moment.")] = 50,
    out: Annotated[Path, typer.Option(help="The SVG file to write.")] = Path("profile.svg"),
    as_json: AsJson = False,
) -> None:
    """Draw a flame graph of a live process, which goes on working."""
    from fraudml.monitoring import profile as profiling

    with output.steps(quiet=as_json) as steps, steps.step(f"Look for {seconds} s", unit="s"):
        profiling.record(pid, out, seconds, rate)
    if as_json:
        output.result({"pid": pid, "seconds": seconds, "rate": rate, "path": str(out)})
    else:
        output.remarks.print(f"Open {out} in a browser: the wider a frame, the more time.", markup=False)
