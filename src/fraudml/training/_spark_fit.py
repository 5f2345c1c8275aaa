"""XGBoost's trees grown by the tasks of a Spark cluster, and their margins computed there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fraudml.errors import MissingExtra, TrainingError
from fraudml.events.schema import TRANSACTION_ID
from fraudml.training.families import base
from fraudml.training.families.xgboost import CELLS_PER_THREAD, FittedXGBoost, booster_options, fitted

if TYPE_CHECKING:
    import xgboost
    from pyspark.sql import DataFrame, Row

LABEL, HELD, MARGIN = "y", "held", "margin"
BUCKETS = 1_000_000_000  # that rows are spread over by their id's hash, to draw a share of them


@dataclass(frozen=True)
class Rows:
    """Labelled rows of a cluster: ``frame`` has ids, ``y`` and ``inputs``; ``slots`` tasks can run at once."""

    frame: DataFrame
    inputs: list[str]
    slots: int


def fit(rows: Rows, valid: Rows | None, setup: base.Setup, params: dict[str, Any], trees: int) -> FittedXGBoost:
    """What ``families/xgboost.py`` fits, on a cluster; ``valid`` stops early when given.

    All frauds are used and as many genuine rows for each as there, drawn by the hash of their ids; without that
    family's limit of rows, since here no single machine has to hold them.
    """
    frauds, total = _counts(rows.frame)
    if frauds in (0, total):
        raise TrainingError(f"{frauds} of the {total} training rows are fraud; a model needs both kinds")
    kept = _thinned(rows.frame, frauds, total, params, setup.seed)
    largest = [f"max(coalesce({_limited(name)}, 0)) AS {name}" for name in rows.inputs]
    found = _row(kept, f"count_if({LABEL} = 1) AS frauds", "count(*) AS total", *largest)
    base_rate = float(np.float32(found["frauds"] / found["total"]))
    shift = base.log_odds(frauds, total) - base.log_odds(found["frauds"], found["total"])
    columns = [f"CAST({LABEL} AS DOUBLE) AS {LABEL}", *(f"{_limited(name)} AS {name}" for name in rows.inputs)]
    data = kept.selectExpr(TRANSACTION_ID, *columns, f"false AS {HELD}")
    if valid is not None:
        # Thinned alike, so that its base rate, which log loss sees, is that of the training rows.
        thinned = _thinned(valid.frame, *_counts(valid.frame), params, setup.seed)
        data = data.unionAll(thinned.selectExpr(TRANSACTION_ID, *columns, f"true AS {HELD}"))
    # Tasks wait for each other after every level of a tree: few rows are faster with few.
    tasks = min(rows.slots, 1 + found["total"] * len(rows.inputs) // CELLS_PER_THREAD)
    # Which rows a task has, and their order, decide the last digits of sums: so they are fixed.
    data = data.repartition(tasks, TRANSACTION_ID).sortWithinPartitions(TRANSACTION_ID)
    options = booster_options(params, setup, base_rate, found["frauds"])
    stop = params["early_stopping_rounds"] if valid is not None else None
    booster = _grow(data, rows.inputs, options, trees, stop, tasks)
    booster.set_param({"nthread": setup.threads})
    return fitted(booster, np.array([found[name] for name in rows.inputs]), base_rate, shift, params, setup)


def margins(frame: DataFrame, model: FittedXGBoost, inputs: list[str], facts: list[str]) -> DataFrame:
    """The columns ``facts`` of a frame, and the model's ``margin`` of each row; nothing is computed yet."""
    from pyspark.sql.types import DoubleType, StructField, StructType

    fields = StructType([*frame.select(*facts).schema.fields, StructField(MARGIN, DoubleType())])
    with _quiet():
        return frame.select(*facts, *inputs).mapInArrow(Margins(model, inputs, facts), fields)


def matrix(batch: pa.RecordBatch, inputs: list[str]) -> base.Matrix:
    """The inputs of a batch, float32 ``[n, k]`` with NaN for missing."""
    made = np.empty((batch.num_rows, len(inputs)), np.float32)
    for i, name in enumerate(inputs):
        made[:, i] = batch.column(name).to_numpy(zero_copy_only=False)
    return made


class Margins:
    """Called by Spark with the batches of a partition."""

    def __init__(self, model: FittedXGBoost, inputs: list[str], facts: list[str]) -> None:
        self._model = model
        self._inputs = inputs
        self._facts = facts

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Inputs to margins."""
        self._model.booster.set_param({"nthread": 1})  # the cores of an executor are other tasks' too
        for batch in batches:
            found = self._model.margin(matrix(batch, self._inputs))
            columns = [*(batch.column(name) for name in self._facts), pa.array(found, pa.float64())]
            yield pa.RecordBatch.from_arrays(columns, [*self._facts, MARGIN])


def _grow(
    data: DataFrame, inputs: list[str], options: dict[str, Any], trees: int, stop: int | None, tasks: int
) -> xgboost.Booster:
    for name in ("XGBoost-PySpark", "XGBoostPySpark", "SparkXGBClassifier"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it would write to standard error
    options = {name: value for name, value in options.items() if name not in ("objective", "seed")}  # it sets these
    with _quiet():
        try:
            from xgboost.spark import SparkXGBClassifier
        except ImportError:
            raise MissingExtra("spark") from None
        estimator = SparkXGBClassifier(
            features_col=inputs,
            label_col=LABEL,
            validation_indicator_col=HELD if stop else None,
            early_stopping_rounds=stop,
            n_estimators=trees,
            num_workers=tasks,
            verbose=False,
            **options,
        )
        booster = estimator.fit(data).get_booster()
    if stop:
        booster = booster[: booster.best_iteration + 1]
    booster.feature_names = booster.feature_types = None  # those of the frame's columns
    grown: xgboost.Booster = booster
    return grown


def _thinned(frame: DataFrame, frauds: int, total: int, params: dict[str, Any], seed: int) -> DataFrame:
    """All frauds, and a share of the genuine rows."""
    genuine = total - frauds
    share = base.genuine_wanted(frauds, genuine, params["genuine_per_fraud"]) / max(1, genuine)
    if share >= 1:
        return frame
    drawn = f"pmod(xxhash64({TRANSACTION_ID}, {int(seed)}), {BUCKETS}) < {int(share * BUCKETS)}"
    return frame.where(f"{LABEL} = 1 OR {drawn}")


def _limited(name: str) -> str:
    """What ``base.without_infinities`` does; null stays null."""
    huge = f"CAST({base.HUGE:g} AS FLOAT)"
    return f"CASE WHEN {name} > {huge} THEN {huge} WHEN {name} < -{huge} THEN -{huge} ELSE {name} END"


def _counts(frame: DataFrame) -> tuple[int, int]:
    found = _row(frame, f"count_if({LABEL} = 1) AS frauds", "count(*) AS total")
    return found["frauds"], found["total"]


def _row(frame: DataFrame, *aggregates: str) -> Row:
    """Aggregates over a whole frame: one row."""
    found: Row = frame.selectExpr(*aggregates).head()  # type: ignore[assignment]
    return found


def _quiet() -> Any:
    return warnings.catch_warnings(action="ignore")
