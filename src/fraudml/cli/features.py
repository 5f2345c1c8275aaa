"""``fraudml features``: what the features are, their SQL, and the audit of what was served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project, rejects_path, tell_rejects
from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.monitoring.parity import AuditReport

app = typer.Typer(help="Show the features, print their SQL, audit served values.", no_args_is_help=True)
EXAMPLES_SHOWN = 10


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="features")


@app.command("list")
def list_features(project_file: ProjectFile = None, as_json: AsJson = False) -> None:
    """List the declared features in plain words."""
    import msgspec

    from fraudml.features.words import Describer

    declared, _ = read_project(project_file)
    feature_set = declared.feature_set
    if as_json:
        features = [msgspec.to_builtins(feature) for feature in feature_set.features]
        output.result({"fingerprint": feature_set.fingerprint, "features": features})
        return
    describer = Describer(feature_set)
    rows = []
    for feature in feature_set.features:
        kind = str(msgspec.to_builtins(feature)["kind"])
        rows.append([feature.name, kind, "yes" if feature.input else "no", describer.name(feature)])
    title = f"fingerprint {feature_set.fingerprint[:12]}"
    output.table(["feature", "kind", "model input", "meaning"], rows, title=title)


@app.command("sql")
def sql(
    dialect: Annotated[str, typer.Option(help="duckdb, postgres, spark, snowflake or bigquery.")] = "duckdb",
    project_file: ProjectFile = None,
) -> None:
    """Print the SQL that computes the state features over tables `transactions` and `labels`."""
    from fraudml.features.sql import state_features_sql

    declared, _ = read_project(project_file)
    typer.echo(state_features_sql(declared.feature_set, dialect))


@app.command("audit")
def audit(
    history: Annotated[
        list[str] | None,
        typer.Option(help="History the service was started with; default: the project's source; '' for none."),
    ] = None,
    judge: Annotated[
        int | None, typer.Option(min=1, help="Judge at most so many of the decisions that differ; default: all.")
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every logged feature value from history and compare; exit code 1 when any differs."""
    import msgspec

    from fraudml.monitoring import parity

    declared, current = read_project(project_file)
    log = wiring.decision_log(current, declared.schema)
    store = wiring.offline_store(current)
    try:
        with output.steps(quiet=as_json) as steps:
            past = wiring.history(current, declared, history, rejects_path(current, "history"))
            with (
                steps.step("Recompute and compare") as progress,
                steps.step("Judge what differs", unit="decisions") as judged,
            ):
                report = parity.audit(
                    log,
                    store,
                    declared.feature_set,
                    history=past.read(),
                    lateness_us=wiring.lateness_us(current),
                    most=judge,
                    progress=progress,
                    judged=judged,
                )
    finally:
        store.close()
        log.close()
    tell_rejects(past.rejects())
    if as_json:
        output.result(msgspec.to_builtins(report))
    else:
        _show(report)
    if report.differing:
        raise typer.Exit(1)


@app.command("materialize")
def materialize(
    history: Annotated[
        list[str] | None,
        typer.Option(help="History that features start from; default: the project's source; '' for none."),
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Load history and the decision log into the shared online store (Redis), while services may go on deciding.

    Interrupted, it goes on where it stopped when it is run again. Where the store has its history already, it only gets
    what processes that ended kept for it.
    """
    from fraudml.decisions import rebuild

    declared, current = read_project(project_file)
    store = wiring.online_store(current, declared.feature_set)
    if not store.shared:
        raise ConfigError("features in this process's memory are built by `fraudml serve`; set FRAUDML_REDIS_URL first")
    log = wiring.decision_log(current, declared.schema)
    past = wiring.history(current, declared, history, rejects_path(current, "materialize"))
    reach_us = wiring.reach_us(current, declared)
    try:
        was_lost = store.lost()
        if was_lost and not store.claim_load():
            raise ConfigError("another process loads the store just now; try again when it has ended")
        with output.steps(quiet=as_json) as steps, steps.step("Load", unit="events") as progress:
            if was_lost:
                events = rebuild.bring_back(store, log, past.read, reach_us, progress)
            else:
                events = rebuild.catch_up(store, log, reach_us)
        held = store.stats()
    finally:
        log.close()
    tell_rejects(past.rejects())
    if as_json:
        output.result({"events": events, "rebuilt": was_lost, "entities": held["entities"]})
        return
    what = "loaded" if was_lost else "of decisions without history looked at again; the rest is there already"
    about = "about " if held.get("estimated") else ""
    output.remarks.print(f"{events:,} events {what}; the store holds {about}{held['entities']:,} entities.")


def _show(report: AuditReport) -> None:
    output.results.print(
        f"{report.values:,} values of {report.decisions:,} decisions compared: {report.differing:,} differ"
    )
    notes = {
        "differ only because of events that arrived later": report.explained,
        "of late decisions: whole tiles of coarse windows, or later than state is kept": report.approximate,
    }
    for words, count in notes.items():
        if count:
            output.results.print(f"  {count:,} more {words}")
    if report.late or report.skipped:
        output.results.print(
            f"  {report.late:,} decisions were late; {report.skipped:,} skipped: degraded, or of another FeatureSet"
        )
    if report.unjudged:
        output.results.print(f"  {report.unjudged:,} more decisions differ and were not judged: see --judge")
    for example in report.examples[:EXAMPLES_SHOWN]:
        output.results.print(
            f"  {example.transaction_id} {example.feature}: served {example.served}, recomputed {example.recomputed}"
        )
