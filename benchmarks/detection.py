"""Detection quality on the Handbook's data by its protocol, with the default features and one default model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import common, handbook
from fraudml import wiring
from fraudml.features.spec import FeatureSet
from fraudml.training import dataset, families
from fraudml.training.calibrate import Calibrator
from fraudml.training.dataset import Dataset
from fraudml.training.families.base import FittedModel

FAMILY = "xgboost"
VALID_SHARE = 0.2
EPOCH = date(1970, 1, 1)
TEST_WEEKS = [(date(2018, 8, 8) - EPOCH).days + 7 * week for week in range(4)]
PUBLISHED = [
    ["Handbook, logistic regression, single week", ".871", ".606", ".291"],
    ["Handbook, random forest, single week", ".867", ".658", ".287"],
    ["Handbook, XGBoost, single week", ".862", ".639", ".273"],
    ["Handbook, best anywhere in the book (each column another model; four weeks)", ".879", ".694", ".305"],
]


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        data, feature_set = load(Path(place))
    weeks = [_row(data, feature_set, week, history=False) for week in TEST_WEEKS]
    longer = [_row(data, feature_set, week, history=True) for week in TEST_WEEKS]
    rows = [
        *PUBLISHED,
        ["**fraudml default, 7 training days, single week (2018-08-08)**", *figures(weeks[0])],
        ["**fraudml default, 7 training days, mean of four weeks**", *figures(np.mean(weeks, axis=0))],
        ["fraudml default, all history before the test, single week", *figures(longer[0])],
        ["fraudml default, all history before the test, mean of four weeks", *figures(np.mean(longer, axis=0))],
    ]
    text = common.table(["model", "AUC ROC", "average precision", "card precision@100"], rows)
    each = [[str(week), *figures(row)] for week, row in zip(["08-08", "08-15", "08-22", "08-29"], weeks, strict=True)]
    return text + "\n\nEach week, 7 training days:\n\n" + common.table(["test week", "AUC", "AP", "CP@100"], each)


def load(home: Path) -> tuple[Dataset, FeatureSet]:
    """The Handbook's transactions with the features that ``init`` declares by default."""
    declared = common.handbook_project(home)
    settings = common.settings(home)
    store = wiring.offline_store(settings)
    source = wiring.source(settings, declared.schema, [str(common.handbook())], home / "rejects.csv")
    store.put(source.read())
    data = dataset.build(store, declared.feature_set)
    store.close()
    return data, declared.feature_set


def fit(
    data: Dataset,
    feature_set: FeatureSet,
    train: NDArray[np.int64],
    family: str = FAMILY,
    params: Mapping[str, Any] | None = None,
) -> tuple[FittedModel, Calibrator]:
    """What ``fraudml train`` does: the last fifth of the training rows stops and calibrates, then all are used."""
    cut = int(len(train) * (1 - VALID_SHARE))
    fitting, checking = data.take(train[:cut]), data.take(train[cut:])
    model = families.get_family(family).fit(
        fitting.x,
        fitting.y,
        valid=(checking.x, checking.y),
        feature_names=feature_set.input_names,
        monotone=[feature.monotone for feature in feature_set.inputs],
        threads=2,
        params=params,
    )
    calibrator = Calibrator.fit(model.margin(checking.x), checking.y)
    every = data.take(train)
    return model.refit(every.x, every.y), calibrator


def _row(data: Dataset, feature_set: FeatureSet, test_day: int, *, history: bool) -> list[float]:
    train = handbook.train_rows(data, test_day)
    if history:
        day = data.event_time_us // handbook.DAY_US
        train = np.flatnonzero(day < test_day - handbook.WEEK)
    test = handbook.test_rows(data, test_day)
    model, calibrator = fit(data, feature_set, train)
    found = handbook.measure(data, test, calibrator.apply(model.margin(data.x[test])))
    return [found.auc_roc, found.average_precision, found.card_precision_100]


def figures(values: list[float] | NDArray[np.float64]) -> list[str]:
    return [f"{value:.3f}".removeprefix("0") for value in values]
