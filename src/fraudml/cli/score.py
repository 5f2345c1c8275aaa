"""``fraudml score``: a file of history to a Parquet file of decisions, point-in-time and streaming."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, Query, read_project, rejects_path, source_paths, tell_rejects


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("score")(score)


def score(
    files: Annotated[
        list[str] | None, typer.Argument(help="Transactions: files, or URLs; default: the project's source.")
    ] = None,
    query: Query = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")] = Path("scores.parquet"),
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Score a file: each transaction with the features that were known at its time.

    The output has the file's own id column, event_time, score, action and model_version.
    """
    import pyarrow.parquet as pq

    from fraudml.decisions import history

    declared, current = read_project(project_file)
    started = time.perf_counter()
    bundle = wiring.champion(current, declared.feature_set, model)
    paths = source_paths(files, declared, query)
    source = wiring.source(current, declared.schema, paths, rejects_path(current, "score"))
    store = wiring.offline_store(current)
    draft = out.with_name(out.name + ".part")  # the output appears whole or not at all
    actions: Counter[str] = Counter()
    try:
        with output.steps(quiet=as_json) as steps:
            with steps.step("Read and check transactions") as progress:
                rows = store.put(source.read(progress))
            schema = history.output_schema(declared.schema.id_column)
            with steps.step("Score", total=rows) as progress, pq.ParquetWriter(draft, schema) as writer:
                for batch in history.score(store, bundle, threads=wiring.threads(current), progress=progress):
                    writer.write_batch(batch)
                    for found in batch.column("action").value_counts().to_pylist():
                        actions[found["values"]] += found["counts"]
        draft.replace(out)
    finally:
        store.close()
        draft.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    summary = {
        "output": str(out),
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
