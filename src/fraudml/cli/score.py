"""``fraudml score``: a file of history to a Parquet file of decisions, point-in-time and streaming."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project, rejects_path, source_paths, tell_rejects

if TYPE_CHECKING:
    import pyarrow as pa

    from fraudml.models.bundle import Bundle


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("score")(score)


def score(
    files: Annotated[list[str] | None, typer.Argument(help="Transactions; default: the project's source.")] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")] = Path("scores.parquet"),
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Score a file: each transaction with the features that were known at its time.

    The output has the file's own id column, event_time, score, action and model_version.
    """
    import pyarrow.parquet as pq

    from fraudml.features.derive import Deriver, to_model

    declared, current = read_project(project_file)
    started = time.perf_counter()
    bundle = wiring.champion(current, declared.feature_set, model)
    runtime = bundle.runtime.with_threads(wiring.threads(current))
    paths = source_paths(files, declared)
    source = wiring.source(current, declared.schema, paths, rejects_path(current, "score"))
    store = wiring.offline_store(current)
    draft = out.with_name(out.name + ".part")  # the output appears whole or not at all
    counts = {"approve": 0, "review": 0, "decline": 0}
    deriver = Deriver(declared.feature_set)
    try:
        with output.steps(quiet=as_json) as steps:
            with steps.step("Read and check transactions") as progress:
                rows = store.put(source.read(progress))
            schema = _output_schema(declared.schema.id_column)
            with steps.step("Score", total=rows) as progress, pq.ParquetWriter(draft, schema) as writer:
                for batch in store.features(declared.feature_set, progress=progress):
                    scores = runtime.score(to_model(deriver.from_arrow(batch)))
                    writer.write_batch(_decide(batch, scores, bundle, schema, counts))
        draft.replace(out)
    finally:
        store.close()
        draft.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    if as_json:
        output.result(
            {
                "output": str(out),
                "rows": rows,
                "rejected": source.rejects().count,
                "actions": counts,
                "model_version": bundle.version,
                "seconds": seconds,
                "rows_per_s": rows / seconds,
            }
        )
        return
    tell_rejects(source.rejects())
    said = ", ".join(f"{count:,} {action}" for action, count in counts.items())
    output.remarks.print(f"{rows:,} transactions in {seconds:.1f} s ({rows / seconds:,.0f}/s): {said}; wrote {out}")


def _output_schema(id_column: str) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            (id_column, pa.string()),
            ("event_time", pa.timestamp("us", tz="UTC")),
            ("score", pa.float64()),
            ("action", pa.string()),
            ("model_version", pa.string()),
        ]
    )


def _decide(batch: pa.RecordBatch, scores, bundle: Bundle, schema: pa.Schema, counts: dict[str, int]) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    from fraudml.events.schema import EVENT_TIME, TRANSACTION_ID

    thresholds = bundle.manifest.thresholds
    level = (scores >= thresholds.review).astype(np.int8) + (scores >= thresholds.decline)
    names = pa.array(list(counts))
    for name, count in zip(counts, np.bincount(level, minlength=3), strict=True):
        counts[name] += int(count)
    return pa.record_batch(
        [
            batch.column(TRANSACTION_ID),
            batch.column(EVENT_TIME).cast(pa.timestamp("us", tz="UTC")),
            pa.array(scores),
            names.take(pa.array(level)),
            pa.array([bundle.version] * batch.num_rows, pa.string()),
        ],
        schema=schema,
    )
