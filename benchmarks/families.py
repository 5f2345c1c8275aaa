"""Every model family by the Handbook's protocol, and what the cascade saves and loses on the whole file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import common, detection, handbook
from fraudml.features.spec import FeatureSet
from fraudml.models.runtime import Runtime
from fraudml.training import evaluate, families, split, stages
from fraudml.training.calibrate import Calibrator
from fraudml.training.dataset import Dataset
from fraudml.training.export import export
from fraudml.training.families.cascade import FittedCascade

# A day and a half of validation has too few frauds to show that only 0.5 % of the recall is lost.
PARAMS: dict[str, dict[str, Any]] = {"cascade": {"recall_loss": 0.05}}


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        data, feature_set = detection.load(Path(place))
    rows = [_family(data, feature_set, name) for name in families.family_names()]
    columns = ["family", "AUC", "AP", "CP@100", "AUC", "AP", "CP@100", "fit s", "us/row, 1 at once", "us/row, 256"]
    return (
        "7 training days and default settings; the first three figures are of the single week 2018-08-08, the next "
        "three the mean of four weeks. Fit: seconds for one week, refit included. Time per row: of one "
        "processor in ONNX Runtime, best of three rounds.\n\n"
        + common.table(columns, rows)
        + "\n\nThe cascade there was allowed 5 % of the recall, for want of validation frauds to show less by. On the "
        "whole file, split by time as `fraudml train` does, with the defaults (0.5 % allowed, at 1 % false positives; "
        "the band chosen on validation), the figures of the test period:\n\n" + _cascade(data, feature_set)
    )


def _family(data: Dataset, feature_set: FeatureSet, name: str) -> list[str]:
    """One line of the table of families."""
    weeks, seconds = [], []
    for week in detection.TEST_WEEKS:
        started = time.perf_counter()
        model, calibrator = detection.fit(data, feature_set, handbook.train_rows(data, week), name, PARAMS.get(name))
        seconds.append(time.perf_counter() - started)
        test = handbook.test_rows(data, week)
        found = handbook.measure(data, test, calibrator.apply(model.margin(data.x[test])))
        weeks.append([found.auc_roc, found.average_precision, found.card_precision_100])
    runtime = Runtime(export(model, calibrator, feature_set.input_names))
    times = [f"{stages.us_per_row(runtime.score, data.x[test], batch):.2f}" for batch in stages.BATCHES]
    means = detection.figures(np.mean(weeks, axis=0))
    return [name, *detection.figures(weeks[0]), *means, f"{np.mean(seconds):.1f}", *times]


def _cascade(data: Dataset, feature_set: FeatureSet) -> str:
    parts = split.by_time(data)
    fitting, checking, testing = (data.take(rows) for rows in (parts.train, parts.valid, parts.test))
    model = families.get_family("cascade").fit(
        fitting.x, fitting.y, valid=(checking.x, checking.y), feature_names=feature_set.input_names, threads=2
    )
    if not isinstance(model, FittedCascade):
        raise TypeError("the cascade family gives cascades")
    found = stages.metrics(model, testing)
    times = stages.times(model, export(model, Calibrator(), feature_set.input_names), testing.x)
    lines = [
        [f"{model.params['fast']} alone", *_measured(testing, model.fast_margin(testing.x)), "0 %"],
        [f"{model.params['accurate']} alone", *_measured(testing, model.accurate_margin(testing.x)), "100 %"],
        ["**cascade**", *_measured(testing, model.margin(testing.x)), f"{1 - found['fast_share']:.1%}"],
    ]
    costs = [[f"{us:.2f}" for us in (each.fast_us, each.accurate_us, each.cascade_us)] for each in times]
    rows = [[*line, *(cost[i] for cost in costs)] for i, line in enumerate(lines)]
    columns = ["model", "AUC", "AP", "CP@100", "recall at 1 % FPR", "rows through the accurate model"]
    text = common.table([*columns, *(f"us/row, {each.batch} at once" for each in times)], rows)
    lost = [f"{each['recall_lost']:.2%}" for each in (found, stages.metrics(model, checking))]
    return (
        f"{text}\n\nRecall lost: {lost[0]} of the accurate model's on test, {lost[1]} on validation. "
        f"{1 / (1 - found['fast_share']):.0f} times fewer calls of the accurate model. The fast model's "
        "time is that of its part of the cascade's graph, routing included."
    )


def _measured(data: Dataset, margin: NDArray[np.float64]) -> list[str]:
    scores = Calibrator().apply(margin)
    found = evaluate.metrics(data, scores)
    figures = [found["roc_auc"], found["average_precision"], found["card_precision_at_100"]]
    return [*detection.figures(figures), f"{found['recall_at_fpr_0.01']:.1%}"]
