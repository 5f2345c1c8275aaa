"""Score history point-in-time: what would have been decided, without recording anything."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.policy import Policy
from fraudml.decisions.record import Action
from fraudml.events.schema import EVENT_TIME, TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.derive import Deriver, to_model
from fraudml.features.stores import OfflineStore
from fraudml.models.bundle import Bundle

TILE = 2_000  # rows scored at once: they and the trees stay in the processor's cache
ACTIONS = pa.array([str(action) for action in Action])
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


@runtime_checkable
class ScoresThere(Protocol):
    """An ``OfflineStore`` whose engine also runs the model, where the rows are."""

    def score(self, bundle: Bundle, output: str, *, by_day: bool = False) -> dict[str, int]:
        """Decide on all transactions put and write a directory of Parquet files of :func:`output_schema`, in no order;
        ``by_day`` in one directory for each day (UTC), named ``day=2024-05-01``. Returns how often each action was
        taken. ``output`` is replaced once everything is there, and left as it was when something fails.

        Raises ``OfflineStoreError`` when the engine fails.
        """
        ...


def score(
    store: OfflineStore, bundle: Bundle, *, threads: int = 1, progress: Progress | None = None
) -> Iterator[pa.RecordBatch]:
    """Decisions for all transactions of an offline store in time order, in batches of :func:`output_schema`.

    The model scores one batch on ``threads`` threads while the next one's features are derived.
    """
    deriver = Deriver(bundle.feature_set)
    with ThreadPoolExecutor(threads) as pool:
        before: tuple[pa.RecordBatch, list[Future[NDArray[np.float64]]]] | None = None
        for batch in store.features(bundle.feature_set, progress=progress):
            vectors = to_model(deriver.from_arrow(batch))
            tiles = [vectors[start : start + TILE] for start in range(0, len(vectors), TILE)]
            scores = [pool.submit(bundle.runtime.score, tile) for tile in tiles]
            if before is not None:
                yield _joined(bundle, *before)
            before = (batch, scores)
        if before is not None:
            yield _joined(bundle, *before)


def _joined(bundle: Bundle, batch: pa.RecordBatch, tiles: list[Future[NDArray[np.float64]]]) -> pa.RecordBatch:
    return decided(bundle, batch, np.concatenate([np.empty(0), *(tile.result() for tile in tiles)]))


def decided(bundle: Bundle, batch: pa.RecordBatch, scores: NDArray[np.float64]) -> pa.RecordBatch:
    """The decisions of :func:`output_schema` on a batch of transactions, given their scores, float64 ``[n]``."""
    policy = Policy.of(bundle.manifest.thresholds)
    columns = [
        batch.column(TRANSACTION_ID),
        batch.column(EVENT_TIME).cast(TIMESTAMP),
        pa.array(scores),
        ACTIONS.take(pa.array(policy.levels(scores))),
        pa.array([bundle.version], pa.string()).take(pa.array(np.zeros(batch.num_rows, np.int8))),
    ]
    return pa.record_batch(columns, schema=output_schema(bundle.feature_set.schema.id_column))
