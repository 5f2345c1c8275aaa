"""Score history point-in-time: what would have been decided, without recording anything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from fraudml.decisions.policy import Policy
from fraudml.decisions.record import Action
from fraudml.events.schema import EVENT_TIME, TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.derive import Deriver, to_model
from fraudml.features.stores import OfflineStore
from fraudml.models.bundle import Bundle

TIMESTAMP = pa.timestamp("us", tz="UTC")


def output_schema(id_column: str) -> pa.Schema:
    """The columns of :func:`score`; the first has the name of the file's own id column."""
    return pa.schema(
        [
            (id_column, pa.string()),
            ("event_time", TIMESTAMP),
            ("score", pa.float64()),
            ("action", pa.string()),
            ("model_version", pa.string()),
        ]
    )


def score(
    store: OfflineStore, bundle: Bundle, *, threads: int = 1, progress: Progress | None = None
) -> Iterator[pa.RecordBatch]:
    """Decisions for all transactions of an offline store in time order, in batches of :func:`output_schema`."""
    feature_set = bundle.feature_set
    runtime = bundle.runtime.with_threads(threads)
    thresholds = bundle.manifest.thresholds
    policy = Policy(thresholds.review, thresholds.decline)
    deriver = Deriver(feature_set)
    schema = output_schema(feature_set.schema.id_column)
    names = pa.array([str(action) for action in Action])
    for batch in store.features(feature_set, progress=progress):
        scores = runtime.score(to_model(deriver.from_arrow(batch)))
        columns = [
            batch.column(TRANSACTION_ID),
            batch.column(EVENT_TIME).cast(TIMESTAMP),
            pa.array(scores),
            names.take(pa.array(policy.levels(scores))),
            pa.array(np.full(batch.num_rows, bundle.version)),
        ]
        yield pa.record_batch(columns, schema=schema)
