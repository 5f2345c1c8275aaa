"""What every part of the serving benchmark needs: a model, its history, feature vectors and their right scores."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks import baselines, common, offline, scoring
from benchmarks.baselines import Baseline
from fraudml import project, wiring
from fraudml.cli.bench import child, server, traffic
from fraudml.cli.bench.requests import Requests
from fraudml.models.runtime import Runtime
from fraudml.project import Project
from fraudml.training import dataset

ENTITIES = 10_000
VECTORS = 5_000
EXACT = "1us"
RESOLUTION = os.environ.get("BENCH_RESOLUTION", EXACT)  # of the windows; exact ones keep every event
HISTORY_DAYS = 30  # the longest window
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Setup:
    """A project with a champion of 300 trees, its files for the baselines in ``models``, and real feature vectors.

    ``scores`` are those of the bundle's own runtime for each vector, ``uncalibrated`` those of its trees alone.
    ``history`` is a file of transactions that end now, of the customers and terminals that the load asks about.
    """

    home: Path
    models: Path
    declared: Project
    history: Path
    events: int
    vectors: list[list[float]]
    scores: NDArray[np.float64]
    uncalibrated: NDArray[np.float64]
    places: child.Places

    def fraudml(
        self, program: Sequence[str] = ("-m", "fraudml"), **settings: str
    ) -> AbstractContextManager[server.Target]:
        """A fresh ``fraudml serve`` whose windows are full."""
        file, past, cores = self.home / "fraudml.yaml", [str(self.history)], self.places.server
        current = common.settings(self.home)
        return server.own(current, self.declared, file, "champion", past, cores, program=program, **settings)

    def requests(self, target: server.Target, transactions: int, batch: int = 0) -> Requests:
        """Requests for it."""
        return traffic.requests(
            self.declared.schema, target.key, entities=ENTITIES, skew=1.0, seed=7, bodies=transactions, batch=batch
        )

    def baseline(self, baseline: Baseline, requests: Requests) -> AbstractContextManager[server.Target]:
        """A fresh server to compare with, which was seen to give the right scores."""
        expected = self.scores if baseline.calibrated else self.uncalibrated
        return baselines.started(baseline, self.models, requests.bodies, expected.tolist(), self.places.server)


def prepare(home: Path) -> Setup:
    """Train the one model that every server serves."""
    text = offline.declaration().replace(
        "features:",
        f"  label: {{column: TX_FRAUD, delay: {common.LABEL_DELAY}}}\nfeatures:\n"
        "  - {name: amount, kind: attribute, of: amount}",
    )
    text = text.replace("kind: window", f"kind: window, resolution: {RESOLUTION}")
    (home / "fraudml.yaml").write_text(text)
    declared = project.read(home / "fraudml.yaml")
    settings = common.settings(home)
    store = wiring.offline_store(settings)
    store.put(wiring.source(settings, declared.schema, [str(common.handbook())], home / "rejects.csv").read())
    data = dataset.build(store, declared.feature_set)
    store.close()
    model = scoring.register(home, data, declared.feature_set)
    models = home / "models"
    models.mkdir()
    shutil.copy(home / "bundle" / "model.onnx", models)
    model.booster.save_model(models / "model.json")
    (models / "names.json").write_text(json.dumps(declared.feature_set.input_names))
    picked = data.x[np.random.default_rng(0).choice(len(data), VECTORS, replace=False)]
    # JSON has no NaN, and a column of nulls is no column of numbers to pandas: the baselines need not deal with either
    vectors = np.nan_to_num(picked).astype(float).round(4).tolist()
    scores, uncalibrated = _right_scores(models / "model.onnx", model.shift, vectors)
    events = _history(home / "history.parquet")
    places = child.places(pin=True)
    return Setup(home, models, declared, home / "history.parquet", events, vectors, scores, uncalibrated, places)


def _history(path: Path) -> int:
    """The Handbook's last days as if they ended now, under the keys that the load uses; returns how many events."""
    table = pq.read_table(
        common.handbook(),
        columns=["TRANSACTION_ID", "TX_DATETIME", *offline.ENTITIES.values(), "TX_AMOUNT", "TX_FRAUD"],
    )
    moments = table["TX_DATETIME"].cast(pa.timestamp("us")).cast(pa.int64())
    last = pc.max(moments).as_py()
    recent = pc.greater(moments, last - HISTORY_DAYS * DAY_US)
    table, moments = table.filter(recent), moments.filter(recent)
    shifted = pc.add(moments, time.time_ns() // 1_000 - last).cast(pa.timestamp("us"))
    table = table.set_column(table.column_names.index("TX_DATETIME"), "TX_DATETIME", shifted)
    for entity, column in offline.ENTITIES.items():
        keys = pc.binary_join_element_wise(entity, table[column].cast(pa.string()), "-")
        table = table.set_column(table.column_names.index(column), column, keys)
    pq.write_table(table, path)
    return int(table.num_rows)


def _right_scores(
    model: Path, shift: float, vectors: list[list[float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the bundle says, and what its trees alone say, as XGBoost's own file does.

    That file knows nothing of the calibration, nor of the ``shift`` for genuine rows that training left out.
    """
    import onnx
    from onnx import numpy_helper

    content = model.read_bytes()
    runtime, rows = Runtime(content), np.array(vectors, np.float32)
    constants = {each.name: each for each in onnx.load_from_string(content).graph.initializer}
    slope, intercept = (
        float(numpy_helper.to_array(constants[f"calibration_{name}"])) for name in ("slope", "intercept")
    )
    margin = (runtime.log_odds(rows) - intercept) / slope - shift
    return runtime.score(rows), 1 / (1 + np.exp(-margin))
