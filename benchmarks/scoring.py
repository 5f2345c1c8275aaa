"""``fraudml score`` of 1.75 M transactions end to end: read, check, features, a 300-tree model, Parquet out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks import common, detection, handbook
from fraudml import wiring
from fraudml.decisions.costs import Costs
from fraudml.features.spec import FeatureSet
from fraudml.models import lifecycle
from fraudml.models.bundle import Thresholds
from fraudml.training import families, packing, split, train
from fraudml.training.calibrate import Calibrator
from fraudml.training.dataset import Dataset
from fraudml.training.families.base import FittedModel

TREES = 300
ROUNDS = 3


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        home = Path(place)
        data, feature_set = detection.load(home)
        register(home, data, feature_set)
        width = len(feature_set.inputs)
        rows = []
        for _ in range(ROUNDS):
            seconds, peak, printed = common.command("score", "--json", "-o", str(home / "scores.parquet"), home=home)
            rows.append((seconds, peak, json.loads(printed)["rows"]))
    rows.sort()
    seconds, peak, count = rows[ROUNDS // 2]
    text = common.table(
        ["what", "transactions", "seconds", "transactions/s", "peak memory"],
        [
            [
                f"fraudml score, {width} features, {TREES} trees",
                f"{count:,}",
                f"{seconds:.1f}",
                f"{count / seconds:,.0f}",
                f"{peak:.2f} GiB",
            ]
        ],
    )
    spread = ", ".join(f"{seconds:.1f}" for seconds, _, _ in rows)
    return f"{text}\n\nThe whole process, start included; median of {ROUNDS} runs ({spread} s)."


def register(home: Path, data: Dataset, feature_set: FeatureSet) -> FittedModel:
    """Make a model of exactly 300 trees, trained on one week of the Handbook's data, the champion of a home."""
    rows = data.take(handbook.train_rows(data, detection.TEST_WEEKS[0]))
    family = families.get_family("xgboost")
    model = family.fit(rows.x, rows.y, feature_names=feature_set.input_names, threads=2, params={"n_estimators": TREES})
    calibrator = Calibrator.fit(model.margin(rows.x), rows.y)
    every = np.ones(len(rows), dtype=bool)
    parts = split.Split(train=every, valid=~every, test=~every, test_start_us=0)
    result = train.LocalResult([], parts, rows, feature_set, Costs(), train.Options())
    candidate = train.Candidate(
        "xgboost", model, calibrator, Thresholds(0.1, 0.5), {}, {}, {}, [], rows.amount_minor, 0.0
    )
    packing.pack(result, candidate, home / "bundle")
    registry = wiring.registry(common.settings(home))
    lifecycle.promote(registry, registry.register(home / "bundle").version, "benchmark")
    return model
