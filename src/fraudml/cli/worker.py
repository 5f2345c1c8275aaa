"""``fraudml worker``: transactions from Kafka, decisions to Kafka."""

from __future__ import annotations

from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import ProjectFile, read_project, rejects_path, tell_rejects


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("worker")(worker)


def worker(
    name: Annotated[
        str | None, typer.Option("--id", help="Name of this worker, unlike all others'; default: the host's.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of health and metrics; 0 lets the system choose; default: 9100.")
    ] = None,
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    history: Annotated[
        list[str] | None,
        typer.Option(help="History that features start from; default: the project's source; '' for none."),
    ] = None,
    project_file: ProjectFile = None,
) -> None:
    """Decide on the transactions of a Kafka topic; each decision is published exactly once.

    Start several to share the partitions, over PostgreSQL and Redis. Ends on SIGTERM after the batch under way.
    """
    declared, current = read_project(project_file)
    changes = {key: value for key, value in {"worker_id": name, "worker_port": port}.items() if value is not None}
    current = current.model_copy(update={**changes, "redis_timeout_ms": current.worker_redis_timeout_ms})
    wiring.kafka(current)  # what fails at once fails before minutes are spent on state
    registry = wiring.registry_apart(current)
    registry.start()  # its process imports MLflow while this one imports what follows
    from fraudml.scoring import logs, start
    from fraudml.scoring.process import ScoringProcess
    from fraudml.worker.run import run

    logs.configure(current.log_level)
    past = wiring.history(current, declared, history, rejects_path(current, "worker"))
    with output.steps() as steps, steps.step("Load the model and rebuild features", unit="events") as progress:
        parts = start.prepare(current, declared, model, registry, past.read, progress, waits=True)
    tell_rejects(past.rejects())
    version = parts.scorer.model.version

    def tell(address: str) -> None:
        output.results.print(f"Model version {version} decides on {current.topic_transactions} (health: {address})")

    run(ScoringProcess(**parts._asdict()), tell)
