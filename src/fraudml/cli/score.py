"""``fraudml score``: a file of history to a Parquet file of decisions, point-in-time and streaming."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, Query, read_project, rejects_path, source_paths, tell_rejects
from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.decisions.history import ScoresThere
    from fraudml.events.source import Progress
    from fraudml.features.stores import OfflineStore
    from fraudml.models.bundle import Bundle


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("score")(score)


def score(
    files: Annotated[
        list[str] | None, typer.Argument(help="Transactions: files, or URLs; default: the project's source.")
    ] = None,
    query: Query = None,
    out: Annotated[
        str, typer.Option("--output", "-o", help="The Parquet file to write; with Spark a directory of such files.")
    ] = "scores.parquet",
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    by_day: Annotated[bool, typer.Option("--by-day", help="Spark only: a directory for each day (UTC).")] = False,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Score a file: each transaction with the features that were known at its time.

    The output has the file's own id column, event_time, score, action and model_version.
    """
    declared, current = read_project(project_file)
    started = time.perf_counter()
    bundle = wiring.champion(current, declared.feature_set, model)
    paths = source_paths(files, declared, query)
    source = wiring.source(current, declared.schema, paths, rejects_path(current, "score"))
    store = wiring.offline_store(current)
    try:
        with output.steps(quiet=as_json) as steps:
            there = _engine(store, out, by_day)
            with steps.step("Read and check transactions") as progress:
                rows = store.put(source.read(progress))
            with steps.step("Score", total=rows) as progress:
                if there is not None:
                    actions = there.score(bundle, out, by_day=by_day)
                else:
                    actions = _score_here(store, bundle, Path(out), wiring.threads(current), progress)
    finally:
        store.close()
    seconds = time.perf_counter() - started
    summary = {
        "output": out,
        "rows": rows,
        "rejected": source.rejects().count,
        "actions": dict(sorted(actions.items())),
        "model_version": bundle.version,
        "seconds": seconds,
        "rows_per_s": rows / seconds,
    }
    if as_json:
        output.result(summary)
        return
    tell_rejects(source.rejects())
    said = ", ".join(f"{count:,} {action}" for action, count in sorted(actions.items()))
    output.remarks.print(f"{rows:,} transactions in {seconds:.1f} s ({rows / seconds:,.0f}/s): {said}; wrote {out}")


def _engine(store: OfflineStore, out: str, by_day: bool) -> ScoresThere | None:
    """The offline store, if it scores by itself; raises ConfigError for an output that only such a one writes."""
    from fraudml.decisions.history import ScoresThere

    if isinstance(store, ScoresThere):
        return store
    if by_day or "://" in out:
        raise ConfigError("only Spark writes a directory for each day, or to a URI: set FRAUDML_OFFLINE_URL to one")
    return None


def _score_here(store: OfflineStore, bundle: Bundle, out: Path, threads: int, progress: Progress) -> dict[str, int]:
    """Score in this process, in time order and streaming; the file appears whole or not at all."""
    import pyarrow.parquet as pq

    from fraudml.decisions import history

    draft = out.with_name(f"{out.name}.part-{uuid4().hex[:8]}")  # of this command alone
    actions: Counter[str] = Counter()
    schema = history.output_schema(bundle.feature_set.schema.id_column)
    try:
        with pq.ParquetWriter(draft, schema) as writer:
            for batch in history.score(store, bundle, threads=threads, progress=progress):
                writer.write_batch(batch)
                for found in batch.column("action").value_counts().to_pylist():
                    actions[found["values"]] += found["counts"]
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return actions
