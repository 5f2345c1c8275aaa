"""``fraudml retrain``: from what was decided, with its labels, to a better model on trial; once or by the clock."""

from __future__ import annotations

import signal
import time
from typing import Annotated, NoReturn

import typer

from fraudml.cli.options import AsJson, ProjectFile
from fraudml.errors import ConfigError, FraudmlError
from fraudml.events.units import format_duration, parse_duration, parse_share


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("retrain")(retrain)


def retrain(
    history: Annotated[
        list[str] | None,
        typer.Option(help="History from before the decision log; default: the project's source; '' for none."),
    ] = None,
    maturity: Annotated[
        str | None,
        typer.Option(
            help="Age from which a label counts as final; default: 30d, or the schema's label delay if longer."
        ),
    ] = None,
    reported_only: Annotated[
        bool, typer.Option("--reported-only", help="Leave out what nobody reported on; else it counts as genuine.")
    ] = False,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Train this family (may be repeated); default: the champion's, with its parameters."),
    ] = None,
    test_share: Annotated[
        float, typer.Option(min=0.05, max=0.5, help="Share of the rows held back at most, by time.")
    ] = 0.2,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="By how much average precision must be better, at least.")
    ] = 0.01,
    share: Annotated[str, typer.Option(help="Share of all entities that the canary gets, as 5% or 0.05.")] = "5%",
    register_only: Annotated[
        bool, typer.Option("--register-only", help="Register a better model, and start no canary.")
    ] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Promote a better model at once.")] = False,
    if_drift: Annotated[
        float | None,
        typer.Option(min=0, help="Only if the champion's scores have drifted: if their PSI is above this, as 0.25."),
    ] = None,
    drift_window: Annotated[
        str, typer.Option(help="Its first and its latest decisions of so long are compared for that.")
    ] = "7d",
    every: Annotated[
        str | None, typer.Option(help="Run again and again, as every 24h, until stopped; default: once.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed: same data, same seed, same scores.")] = 0,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Train on what was decided and labelled, and if that is better than the champion try it as a canary.

    Only labels old enough to be final count, and both models are measured on the same transactions, later than those
    either was trained on. Nothing is promoted unless --promote says so.
    """
    from fraudml.cli.retrain_report import show
    from fraudml.cli.retrain_run import Then, Wish, run
    from fraudml.training import families

    if register_only and promote:
        raise ConfigError("choose --register-only or --promote, not both")
    for name in family or ():
        families.get_family(name)
    wish = Wish(
        history,
        None if maturity is None else format_duration(parse_duration(maturity)),
        reported_only,
        family,
        test_share,
        margin,
        parse_share(share),
        Then.promote if promote else Then.register if register_only else Then.canary,
        if_drift,
        parse_duration(drift_window),
        seed,
        project_file,
        quiet=as_json,
    )
    if every is None:
        show(run(wish), as_json)
        return
    interval_s = parse_duration(every) / 1_000_000
    if not interval_s:
        raise ConfigError("--every needs a time between runs, such as 24h")
    signal.signal(signal.SIGTERM, _stop)
    while True:
        began = time.monotonic()
        try:
            show(run(wish), as_json)
        except (FraudmlError, OSError) as error:  # the next run may go well
            typer.echo(f"fraudml: {error}", err=True)
        time.sleep(max(0.0, began + interval_s - time.monotonic()))


def _stop(number: int, frame: object) -> NoReturn:
    """To be told to stop is how a command ends that runs for ever."""
    raise SystemExit(0)
