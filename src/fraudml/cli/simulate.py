"""``fraudml simulate``: a file of made-up transactions with fraud in it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fraudml.cli import output
from fraudml.cli.options import AsJson


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("simulate")(simulate)


def simulate(
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .csv.gz or .parquet.")] = Path("transactions.csv"),
    rows: Annotated[int, typer.Option(help="About how many transactions.")] = 100_000,
    days: Annotated[int | None, typer.Option(help="Length of the period; default: four months.")] = None,
    customers: Annotated[int | None, typer.Option(help="Card holders; default: to fit the rows.")] = None,
    start: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC); default: 2025-09-01.")
    ] = None,
    fraud_rate: Annotated[float | None, typer.Option(help="Frauds among all transactions; default: 0.007.")] = None,
    truth: Annotated[bool, typer.Option(help="Add the column fraud_pattern, for analysis only.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same transactions.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Simulate card payments: customers, merchants, devices, rhythm, drifting fraud patterns, late labels."""
    from fraudml.simulation import for_rows, write

    chosen: dict[str, Any] = {"days": days, "customers": customers, "fraud_rate": fraud_rate}
    chosen["start"] = start.date() if start else None
    given = {name: value for name, value in chosen.items() if value is not None}
    config = for_rows(rows, seed=seed, include_truth=truth, **given)
    with output.steps(quiet=as_json) as steps, steps.step("Simulate", total=config.expected_rows) as progress:
        made = write(config, out, progress)
    if as_json:
        output.result(
            {
                "path": str(made.path),
                "rows": made.rows,
                "frauds": made.frauds,
                "first_event": made.first_event,
                "last_event": made.last_event,
                "patterns": dict(made.patterns),
            }
        )
        return
    output.remarks.print(
        f"{made.rows:,} transactions, {made.frauds:,} frauds ({made.fraud_rate:.2%}), "
        f"{made.fraud_amount:,.2f} of {made.amount:,.2f} {config.currency}; wrote {made.path}"
    )
    output.remarks.print(f"Next: fraudml init {made.path}")
