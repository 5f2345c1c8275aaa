"""The demo as a story of real commands; see :func:`demo`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import project
from fraudml.cli import output
from fraudml.cli.options import AsJson
from fraudml.models.registry import CHAMPION
from fraudml.settings import environment_of_defaults

if TYPE_CHECKING:
    from fraudml.cli.demo.processes import Commands, Service
    from fraudml.cli.demo.workspace import LiveEvent

# Genuine transactions count as genuine after 30 days, so training on four months learns from about three.
HISTORY_DAYS, LIVE_DAYS = 120, 14
START = "2024-09-02"  # a Monday, so long ago that every label was known before today
SIMULATED, HISTORY = "simulated.csv", "history.csv"
FEWEST_ROWS = 20_000  # below this even many frauds are too few to learn from


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("demo")(demo)


def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End when all is shown; else the service runs on.")] = False,
    rows: Annotated[int, typer.Option(min=FEWEST_ROWS, help="About how many transactions to simulate.")] = 180_000,
    fraud_rate: Annotated[float, typer.Option(help="Frauds among all transactions.")] = 0.007,
    keep: Annotated[Path, typer.Option(help="Directory to work in; a demo empties its own old one.")] = Path(
        "fraudml-demo"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 lets the system choose.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same transactions.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Show everything at once: simulate, init, train, compare, promote, serve, replay, audit.

    Each step is a command that you could type. The exit code is 1 when something did not go well.
    """
    from fraudml.cli.demo import processes, results, workspace

    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(processes.ended_by_signals())
        directory = stack.enter_context(workspace.fresh(keep))
        commands = processes.Commands(directory, environment_of_defaults(), quiet=as_json)
        stretch = _simulate(commands, rows, fraud_rate, seed)
        _models(commands)
        service, token = _serve(commands, port, stack)
        found = _live(commands, service, token, stretch, as_json)
        found["seconds"] = time.perf_counter() - started
        results.show(found, as_json)
        if not leave:
            _until_interrupted(service)
    if found["problems"]:
        raise typer.Exit(1)


def _simulate(commands: Commands, rows: int, fraud_rate: float, seed: int) -> list[LiveEvent]:
    """A history file and a project in the directory; what happens after the history is returned."""
    from fraudml.cli.demo import workspace

    _chapter("A payment company's transactions")
    period = ["--days", str(HISTORY_DAYS + LIVE_DAYS), "--start", START]
    size = ["--rows", str(rows), "--fraud-rate", str(fraud_rate), "--seed", str(seed)]
    commands.run("simulate", SIMULATED, *period, *size, "--truth")
    directory = commands.directory
    moment, later = workspace.cut(directory / SIMULATED, directory / HISTORY, days=HISTORY_DAYS)
    _remark(
        f"The demo takes {moment[:10]} for today: what is older is {HISTORY}; "
        f"the {len(later):,} transactions of the {LIVE_DAYS} days from then on are still to come."
    )
    _chapter("Two commands from a file to a model")
    commands.run("init", HISTORY, "--yes")
    return workspace.events(project.read(directory / "fraudml.yaml").schema, later)


def _models(commands: Commands) -> None:
    """Train all families, compare, and promote the one that would have saved most."""
    commands.run("train")
    _chapter("Compare and promote")
    commands.run("models", "list")
    versions = commands.ask("models", "list")
    best = max(versions, key=lambda version: float(version["metrics"]["money_saved_per_day"]))
    promote = ["models", "promote", str(best["version"]), "--reason", "saved most in the held-back period"]
    if CHAMPION in best["aliases"]:
        _remark("The champion saved most in the held-back period: it stays. Another would be promoted like this:")
        commands.say(*promote)
    else:
        _remark("The champion was the best on validation, but another saved more in the held-back period.")
        commands.run(*promote)
    _remark("The days to come, which nobody has seen yet, will be the judge.")


def _serve(commands: Commands, port: int, stack: ExitStack) -> tuple[Service, str]:
    """The running service and a key for it."""
    _chapter("Serve")
    scopes = ["--scope", "score", "--scope", "label", "--scope", "read"]
    create = ["keys", "create", "demo", *scopes]
    commands.say(*create)
    key = commands.ask(*create)
    service = stack.enter_context(commands.serve(port))
    _remark(f"Ready on {service.url}: the windows of its features hold the history already.")
    return service, key["key"]


def _live(commands: Commands, service: Service, token: str, stretch: list[LiveEvent], as_json: bool) -> dict[str, Any]:
    """Replay the stretch, audit what was served, explain one answer; all figures, and the problems met."""
    from fraudml.cli.demo import replay, results
    from fraudml.cli.demo.client import Client

    _chapter(f"{LIVE_DAYS} days of traffic, one HTTP request per transaction, {replay.CONNECTIONS} connections")
    declared = project.read(commands.directory / "fraudml.yaml")
    client = Client(service.port, token)
    try:
        answers = replay.replay(client, stretch, quiet=as_json)
        decimals = declared.schema.amount.decimals if declared.schema.amount else 0
        found = results.figures(stretch, answers, declared.costs, decimals)
        suspect = results.most_certain_fraud(stretch, answers)
        found["explained"] = client.post("/v1/explain", suspect.request_of_id(declared.schema.id_column))
    finally:
        client.close()
    _remark(
        f"{answers.labels_recorded:,} labels were sent as they became known: each before the first transaction "
        "that could know it, the rest as the weeks went by."
    )
    _chapter("Were the features served those that training would compute?")
    commands.say("features", "audit")
    found["audit"] = commands.ask("features", "audit")
    found["report"] = str(commands.directory / ".fraudml" / "reports" / "report.html")
    found["url"] = service.url
    found["problems"] = results.problems(found)
    return found


def _until_interrupted(service: Service) -> None:
    _remark("\nThe service runs until you press Ctrl-C.")
    try:
        service.process.wait()
    except KeyboardInterrupt:
        _remark("Stopping the service.")
        return
    raise service.ended()


def _chapter(title: str) -> None:
    output.remarks.print(f"\n[bold cyan]{title}[/]")


def _remark(text: str) -> None:
    output.remarks.print(text)
