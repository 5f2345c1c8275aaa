"""What the offline stores have in common: the shape of label reports and of results, failures of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from fraudml.errors import FraudmlError, OfflineStoreError
from fraudml.events.label import Label
from fraudml.events.schema import AMOUNT, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, AttributeType
from fraudml.events.source import arrow_schema
from fraudml.features.spec import FeatureSet, LastFeature, StateFeature

PUT_BEFORE = "history was put before; use one store per history"
EMPTY = "the store is empty; put history first"
BARE = "__bare"  # whether a report came without entities


def entity_names(transactions: pa.Schema) -> list[str]:
    """The entities of a schema of ``events.source.arrow_schema``."""
    names = transactions.names
    return list(names[2 : names.index(AMOUNT)])


def label_schema(entities: Sequence[str]) -> pa.Schema:
    """The columns of label reports: the transaction, verdict and time, then the entities."""
    columns = [(TRANSACTION_ID, pa.string()), (IS_FRAUD, pa.bool_()), (KNOWN_AT, pa.int64())]
    return pa.schema([*columns, *((name, pa.string()) for name in entities)])


def label_table(labels: Sequence[Label], entities: Sequence[str]) -> pa.Table:
    """Reports as columns of :func:`label_schema` and :data:`BARE`; raises OfflineStoreError for one of other entities.

    The entities of a bare report are null: it has those of its transaction.
    """
    if wrong := next((x for x in labels if len(x.entities) not in (0, len(entities))), None):
        raise OfflineStoreError(
            f"label of {wrong.transaction_id!r} has {len(wrong.entities)} entities, not {len(entities)}"
        )
    rows = [label.entities or (None,) * len(entities) for label in labels]
    columns = [
        [label.transaction_id for label in labels],
        [label.is_fraud for label in labels],
        [label.known_at_us for label in labels],
        *([row[i] for row in rows] for i in range(len(entities))),
        [not label.entities for label in labels],
    ]
    schema = label_schema(entities).append(pa.field(BARE, pa.bool_()))
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def result_schema(feature_set: FeatureSet) -> pa.Schema:
    """The columns of ``OfflineStore.features``."""
    features = [pa.field(feature.name, _type(feature_set, feature)) for feature in feature_set.state_features]
    return pa.schema([*arrow_schema(feature_set.schema), *features])


def noting(batches: Iterable[pa.RecordBatch], failures: list[FraudmlError]) -> Iterator[pa.RecordBatch]:
    """The same batches; a failure of the source is kept, since on its way through an engine it may lose its type."""
    try:
        yield from batches
    except FraudmlError as error:
        failures.append(error)
        raise


def _type(feature_set: FeatureSet, feature: StateFeature) -> pa.DataType:
    """float64, but text for a category read by ``last``."""
    kind = feature_set.schema.input_type(feature.of) if isinstance(feature, LastFeature) else None
    return pa.string() if kind is AttributeType.category else pa.float64()
