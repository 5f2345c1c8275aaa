"""What the two models of a cascade do: how much the fast one answers, what that loses, how long each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fraudml.models.cascade import FAST_PROBABILITY, STAGE, Cascade, StageTimes
from fraudml.models.runtime import Runtime
from fraudml.training import evaluate, export
from fraudml.training.calibrate import Calibrator
from fraudml.training.dataset import Dataset
from fraudml.training.families.cascade import FittedCascade

BATCHES = (1, 256)
CALLS = 200  # of each size in a round
ROUNDS = 3

Score = Callable[[NDArray[np.float32]], object]


def metrics(model: FittedCascade, data: Dataset) -> dict[str, float]:
    """``fast_share``: of the rows, those that the fast model answers; ``recall_lost``: of the recall that the accurate
    model alone has at the cascade's false-positive rate, each at its own threshold for this period."""
    fast = model.fast_margin(data.x)
    rate = model.params["false_positive_rate"]
    alone, together = (
        evaluate.recall_at(data.y, margin, rate) for margin in (model.accurate_margin(data.x), model.margin(data.x))
    )
    return {
        "fast_share": float(1 - model.band.holds(fast).mean()),
        "recall_lost": 1 - together / alone if alone else 0.0,
    }


def describe(
    model: FittedCascade, calibrator: Calibrator, shares: Sequence[float], onnx_model: bytes, rows: NDArray[np.float32]
) -> Cascade:
    """What the manifest says of a cascade; ``shares`` are the ``fast_share`` of the valid and of the test period."""
    low, high = calibrator.apply([model.band.low, model.band.high]).tolist()
    chosen = model.params
    return Cascade(
        fast=chosen["fast"],
        accurate=chosen["accurate"],
        low=low,
        high=high,
        recall_loss=chosen["recall_loss"],
        false_positive_rate=chosen["false_positive_rate"],
        fast_share_valid=shares[0],
        fast_share_test=shares[1],
        times=times(model, onnx_model, rows),
    )


def times(model: FittedCascade, onnx_model: bytes, rows: NDArray[np.float32]) -> list[StageTimes]:
    """In ONNX Runtime, on rows drawn from ``rows``, float32 ``[n, k]``: their mix is that of the traffic."""
    cascade = Runtime(onnx_model)
    alone = export.export(model.accurate, model.accurate_calibrator, model.setup.feature_names)
    runs: list[Score] = [lambda x: cascade.fetch([FAST_PROBABILITY, STAGE], x), Runtime(alone).score, cascade.score]
    return [StageTimes(batch, *(us_per_row(run, rows, batch) for run in runs)) for batch in BATCHES]


def us_per_row(run: Score, rows: NDArray[np.float32], batch: int) -> float:
    """Microseconds of processor time, the mean over many calls in the quickest round: other programs only slow it."""
    places = np.random.default_rng(0).integers(0, len(rows), (CALLS, batch))
    batches = [rows[each] for each in places]
    seconds = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for each in batches:
            run(each)
        seconds.append(time.thread_time() - started)
    return min(seconds) * 1e6 / (CALLS * batch)
