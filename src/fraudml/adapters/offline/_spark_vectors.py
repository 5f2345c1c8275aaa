"""Model inputs as a data set of Spark, for training where the rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pyarrow as pa

from fraudml.adapters.offline._spark_errors import quiet, spark_errors
from fraudml.events.schema import AMOUNT, EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, Schema
from fraudml.features.derive import Deriver, to_model
from fraudml.features.spec import Feature, FeatureSet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LABEL = "y"  # 1 fraud, 0 genuine, -1 unlabelled
ENTITY = "entity"  # a number for each key of the schema's first entity, -1 for none
INPUT = "f"  # f0, f1, ...: the inputs, in the order of the vector
NEVER_KNOWN = (1 << 63) - 1
_FACTS = (TRANSACTION_ID, EVENT_TIME, KNOWN_AT, AMOUNT, LABEL, ENTITY)


class SparkVectors:
    """All transactions with the inputs that a model reads.

    ``frame`` has ``transaction_id``, ``event_time_us``, ``known_at_us`` (the largest int64 without a label),
    ``amount_minor``, ``y``, ``entity`` and the float32 columns ``inputs``, null for missing.
    """

    def __init__(self, frame: DataFrame, inputs: list[str], read: Callable[[DataFrame], Iterator[pa.RecordBatch]]):
        self.frame = frame
        self.inputs = inputs
        self._read = read

    @property
    def slots(self) -> int:
        """Tasks that can run at once."""
        context = self.frame.sparkSession.sparkContext
        each = int(context.getConf().get("spark.task.cpus", "1") or 1)
        return max(1, context.defaultParallelism // each)

    def read(self, frame: DataFrame) -> Iterator[pa.RecordBatch]:
        """Compute a frame made of ``frame`` and read it in the order of time, a part at a time."""
        with spark_errors(), quiet():
            yield from self._read(frame)

    def errors(self) -> AbstractContextManager[None]:
        """Within it Spark's failures are ``OfflineStoreError``."""
        return spark_errors()


def vectors_of(frame: DataFrame, feature_set: FeatureSet) -> DataFrame:
    """Transactions with their state features to the frame of :class:`SparkVectors`; nothing is computed yet."""
    from pyspark.sql.pandas.types import from_arrow_schema

    schema = feature_set.schema
    entity = next(iter(schema.entities), None)
    number = "-1L" if entity is None else f"CASE WHEN `{entity}` IS NULL THEN -1L ELSE {_positive_hash(entity)} END"
    facts = {
        KNOWN_AT: f"COALESCE({KNOWN_AT}, {NEVER_KNOWN})",
        AMOUNT: f"CAST({AMOUNT} AS BIGINT)",
        LABEL: f"CAST(COALESCE(CAST({IS_FRAUD} AS INT), -1) AS TINYINT)",
    }
    # what the inputs are derived from stays; the facts of training are put beside it, under names of no user
    added = [f"{sql} AS __{name}" for name, sql in (facts | {ENTITY: number}).items()]
    fields = _fields(feature_set)
    with quiet():
        return frame.selectExpr("*", *added).mapInArrow(
            Deriving(schema, feature_set.features), from_arrow_schema(fields)
        )


def input_columns(feature_set: FeatureSet) -> list[str]:
    """The columns of the inputs, in the order of the vector."""
    return [f"{INPUT}{i}" for i in range(len(feature_set.inputs))]


class Deriving:
    """Called by Spark with the batches of a partition."""

    def __init__(self, schema: Schema, features: tuple[Feature, ...]) -> None:
        self._schema = schema
        self._features = features

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Transactions with their state features to facts and inputs."""
        feature_set = FeatureSet(self._schema, self._features)
        deriver, fields = Deriver(feature_set), _fields(feature_set)
        for batch in batches:
            inputs = to_model(deriver.from_arrow(batch))
            facts = [batch.column(name) for name in (TRANSACTION_ID, EVENT_TIME)]
            facts += [batch.column(f"__{name}") for name in _FACTS[2:]]
            columns = [*facts, *(pa.array(column, from_pandas=True) for column in inputs.T)]  # NaN becomes null
            cast = [column.cast(field.type) for column, field in zip(columns, fields, strict=True)]
            yield pa.RecordBatch.from_arrays(cast, schema=fields)


def _fields(feature_set: FeatureSet) -> pa.Schema:
    types = (pa.string(), pa.int64(), pa.int64(), pa.float64(), pa.int8(), pa.int64())
    facts = list(zip(_FACTS, types, strict=True))
    return pa.schema([*facts, *((name, pa.float32()) for name in input_columns(feature_set))])


def _positive_hash(entity: str) -> str:
    return f"shiftrightunsigned(xxhash64(`{entity}`), 1)"
