"""XGBoost trained where the rows are, by the tasks of a Spark cluster, into candidates like those of ``train.py``.

Periods, thinning, settings, calibration, thresholds, figures and export are the same. What differs is where things
happen. Inputs stay with the cluster, which grows the trees by XGBoost's own ``xgboost.spark``. This process gets
margins, labels, amounts and times of the valid and of the test period, of at most ``HELD_BACK_ROWS`` rows each, and the
inputs of ``SAMPLE_ROWS`` rows, to check the export with. The cuts between periods are quantiles to one in a hundred
thousand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.decisions.costs import Costs
from fraudml.errors import TrainingError
from fraudml.events.schema import AMOUNT, EVENT_TIME, KNOWN_AT, TRANSACTION_ID
from fraudml.features.spec import FeatureSet
from fraudml.training import _spark_plan
from fraudml.training._spark_fit import MARGIN, Rows, fit, margins, matrix
from fraudml.training._spark_plan import Periods
from fraudml.training.dataset import Dataset
from fraudml.training.families import base
from fraudml.training.families.base import FittedModel, Margins, Progress
from fraudml.training.families.xgboost import FAMILY, FittedXGBoost
from fraudml.training.overview import Overview, TrainedOn
from fraudml.training.train import Candidate, Options, StepReport, judge

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

HELD_BACK_ROWS = 10_000_000  # 0.4 GB of this process's memory
SAMPLE_ROWS = 5_000
FACTS = [TRANSACTION_ID, EVENT_TIME, KNOWN_AT, AMOUNT, "y", "entity"]


class Vectors(Protocol):
    """Model inputs of all transactions, kept by a cluster."""

    @property
    def frame(self) -> DataFrame:
        """The columns ``FACTS``, as :class:`Dataset` has them, and the float32 columns ``inputs``, null for missing."""

    @property
    def inputs(self) -> list[str]: ...

    @property
    def slots(self) -> int:
        """Tasks that can run at once."""

    def read(self, frame: DataFrame) -> Iterator[pa.RecordBatch]:
        """A frame made of ``frame``, streamed in the order of time."""

    def errors(self) -> AbstractContextManager[None]:
        """Within it Spark's failures become ``OfflineStoreError``."""


@runtime_checkable
class TrainsThere(Protocol):
    """An ``OfflineStore`` whose engine can also train."""

    def vectors(self, feature_set: FeatureSet) -> Vectors:
        """Compute the inputs of all transactions put, and keep them there until the store is closed."""
        ...


@dataclass(frozen=True)
class SparkResult:
    """The result of a run on a cluster: a :class:`fraudml.training.train.Result`."""

    candidates: list[Candidate]
    feature_set: FeatureSet
    costs: Costs
    options: Options
    overview: Overview
    testing: Dataset = field(repr=False)
    periods: Periods = field(repr=False)
    vectors: Vectors = field(repr=False)

    def refit(self, model: FittedModel, progress: Progress) -> FittedModel:
        """The same settings and number of trees on all mature rows; ``progress`` is not told."""
        if not isinstance(model, FittedXGBoost):
            raise TrainingError("only xgboost is trained on a cluster")
        with self.vectors.errors():
            return fit(_rows(self.vectors, self._mature()), None, model.setup, model.params, model.size)

    def trained_on(self, candidate: Candidate) -> TrainedOn:
        """All mature rows, or those of the train period: a sample of them, and the rest in figures."""
        vectors = self.vectors
        with vectors.errors():
            rows = vectors.frame.where(self._mature() if candidate.refitted else self.periods.train)
            drawn = rows.selectExpr("*", f"xxhash64({TRANSACTION_ID}, {int(self.options.seed)}) AS place")
            sample = _dataset(vectors, drawn.orderBy("place", TRANSACTION_ID).limit(SAMPLE_ROWS).drop("place"))[0]
            return TrainedOn(sample, _spark_plan.figures(rows), _spark_plan.content_hash(rows, vectors.inputs))

    def _mature(self) -> str:
        return _spark_plan.known_by(self.vectors.frame, self.overview.whole.until_us)


def train(vectors: Vectors, feature_set: FeatureSet, costs: Costs, options: Options, step: StepReport) -> SparkResult:
    """Train XGBoost, the one family that a cluster trains; raises TrainingError when the data does not allow it."""
    started = time.perf_counter()
    decimals = feature_set.schema.amount.decimals if feature_set.schema.amount else 0
    with vectors.errors():
        step("Split by time")
        periods, overview = _spark_plan.plan(vectors.frame, vectors.inputs, options.test_share, HELD_BACK_ROWS)
        step("Fit xgboost on the cluster")
        model = _fit(vectors, feature_set, periods, overview, options)
        step("Measure xgboost")
        checking, margin = _with_margins(vectors, model, periods.valid)
        testing, later = _with_margins(vectors, model, periods.test)
    found = judge(FAMILY.name, model, (checking, testing), (margin, later), costs, decimals, seed=options.seed)
    candidate = replace(found, seconds=time.perf_counter() - started)
    return SparkResult([candidate], feature_set, costs, options, overview, testing, periods, vectors)


def _fit(
    vectors: Vectors, feature_set: FeatureSet, periods: Periods, overview: Overview, options: Options
) -> FittedXGBoost:
    monotone = [feature.monotone for feature in feature_set.inputs]
    setup = base.make_setup(feature_set.input_names, monotone, options.seed, options.threads)
    params = base.merge_params(FAMILY, None) | {"max_rows": None}  # no machine has to hold them all
    valid, trees = _rows(vectors, periods.valid), params["n_estimators"]
    if overview.valid.frauds < params["early_stopping_frauds"]:
        return fit(_rows(vectors, periods.train), None, setup, params, min(params["few_frauds_estimators"], trees))
    return fit(_rows(vectors, periods.train), valid, setup, params, trees)


def _rows(vectors: Vectors, condition: str) -> Rows:
    return Rows(vectors.frame.where(condition), vectors.inputs, vectors.slots)


def _with_margins(vectors: Vectors, model: FittedXGBoost, condition: str) -> tuple[Dataset, Margins]:
    return _dataset(vectors, margins(vectors.frame.where(condition), model, vectors.inputs, FACTS))


def _dataset(vectors: Vectors, frame: DataFrame) -> tuple[Dataset, Margins]:
    """The rows of a frame as a data set, with the inputs and margins that it has; none of either where it has none."""
    inputs = [name for name in vectors.inputs if name in frame.columns]
    parts: list[tuple[Dataset, Margins]] = []
    for batch in vectors.read(frame):
        data = Dataset(
            x=matrix(batch, inputs),
            y=batch.column("y").to_numpy(),
            event_time_us=batch.column(EVENT_TIME).to_numpy(),
            known_at_us=batch.column(KNOWN_AT).to_numpy(),
            amount_minor=pc.cast(batch.column(AMOUNT), pa.float64()).to_numpy(zero_copy_only=False),
            entity=batch.column("entity").to_numpy(),
        )
        margin = batch.column(MARGIN).to_numpy() if MARGIN in frame.columns else np.empty(0)
        parts.append((data, margin))
    if not parts:
        raise TrainingError("there are no transactions in the period to train on")
    names = ("x", "y", "event_time_us", "known_at_us", "amount_minor", "entity")
    whole = Dataset(*(np.concatenate([getattr(part, name) for part, _ in parts]) for name in names))
    return whole, np.concatenate([margin for _, margin in parts])
