"""The point-in-time training set: every row's features as they could have been known at its time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.errors import TrainingError
from fraudml.events.schema import AMOUNT, EVENT_TIME, IS_FRAUD, KNOWN_AT
from fraudml.events.source import Progress
from fraudml.features.derive import Deriver, to_model
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import OfflineStore

UNLABELLED = -1
NEVER_KNOWN = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Dataset:
    """``n`` transactions in time order.

    ``x``: float32 ``[n, k]`` model inputs; ``y``: int8 ``[n]``, 1 fraud, 0 genuine, -1 unlabelled;
    ``event_time_us``, ``known_at_us``: int64 ``[n]``; ``amount_minor``: float64 ``[n]``, NaN without an amount;
    ``entity``: int64 ``[n]``, a number per key of the schema's first entity (-1 missing), for card precision.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int8]
    event_time_us: NDArray[np.int64]
    known_at_us: NDArray[np.int64]
    amount_minor: NDArray[np.float64]
    entity: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def frauds(self) -> int:
        """Number of rows known to be fraud."""
        return int((self.y == 1).sum())

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Dataset:
        """The same columns for some rows."""
        return Dataset(
            self.x[rows],
            self.y[rows],
            self.event_time_us[rows],
            self.known_at_us[rows],
            self.amount_minor[rows],
            self.entity[rows],
        )

    def content_hash(self) -> str:
        """SHA-256 over inputs, labels and times: what a bundle was trained on."""
        digest = hashlib.sha256()
        for column in (self.x, self.y, self.event_time_us):
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


def build(
    store: OfflineStore,
    feature_set: FeatureSet,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    progress: Progress | None = None,
    labelled: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
) -> Dataset:
    """The features of all transactions in ``[since_us, until_us)``; raises TrainingError when there are none.

    ``labelled``: gives each batch the labels to learn from, where they are not those that the store has.
    """
    deriver = Deriver(feature_set)
    entity = next(iter(feature_set.schema.entities), None)
    keys: dict[str | None, int] = {None: -1}
    parts: list[Dataset] = []
    for batch in _batches(store, feature_set, since_us, until_us, progress):
        parts.append(_part(labelled(batch) if labelled else batch, deriver, entity, keys))
    if not parts:
        raise TrainingError("there are no transactions in the period to train on")
    return Dataset(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("x", "y", "event_time_us", "known_at_us", "amount_minor", "entity")
        )
    )


def _batches(
    store: OfflineStore,
    feature_set: FeatureSet,
    since_us: int | None,
    until_us: int | None,
    progress: Progress | None,
) -> Iterator[pa.RecordBatch]:
    for batch in store.features(feature_set, since_us=since_us, until_us=until_us, progress=progress):
        if batch.num_rows:
            yield batch


def _part(batch: pa.RecordBatch, deriver: Deriver, entity: str | None, keys: dict[str | None, int]) -> Dataset:
    labels = pc.fill_null(pc.cast(batch.column(IS_FRAUD), pa.int8()), UNLABELLED)
    return Dataset(
        x=to_model(deriver.from_arrow(batch)),
        y=labels.to_numpy(zero_copy_only=False),
        event_time_us=batch.column(EVENT_TIME).to_numpy(),
        known_at_us=pc.fill_null(batch.column(KNOWN_AT), NEVER_KNOWN).to_numpy(zero_copy_only=False),
        amount_minor=pc.cast(batch.column(AMOUNT), pa.float64()).to_numpy(zero_copy_only=False),
        entity=_numbers(batch.column(entity), keys) if entity else np.full(batch.num_rows, -1, dtype=np.int64),
    )


def _numbers(column: pa.Array, keys: dict[str | None, int]) -> NDArray[np.int64]:
    encoded = column.dictionary_encode(null_encoding="encode")
    numbers = [keys.setdefault(key, len(keys) - 1) for key in encoded.dictionary.to_pylist()]
    table = np.array(numbers, dtype=np.int64)
    rows: NDArray[np.int64] = table[encoded.indices.to_numpy(zero_copy_only=False)]
    return rows
