"""The prediction cache against just scoring: microseconds per transaction by model, batch size and hit rate."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from fraudml.adapters.cache.memory import MemoryPredictionCache
from fraudml.decisions.cache import ScoreCache
from fraudml.models.runtime import Runtime
from fraudml.training.calibrate import Calibrator
from fraudml.training.export import export
from fraudml.training.families import logistic_regression, xgboost

FEATURES = 30
TREES = {"n_estimators": 300, "few_frauds_estimators": 300, "max_depth": 6}
TRAINING_ROWS = 20_000
TRANSACTIONS = 6_400  # timed for each figure; a multiple of every batch size
KNOWN = 10_000  # rows whose scores are held when the clock starts
BATCHES = (1, 16, 64)
HIT_RATES = (0.0, 0.5, 0.95)
ROUNDS = 5
ENTRIES = 100_000
MODEL = b"one model's key!"

Rows = NDArray[np.float32]


def run() -> str:
    """The section of RESULTS.md."""
    models = {f"300 trees, {FEATURES} features": _trees(), f"logistic regression, {FEATURES} features": _linear()}
    lines = []
    for name, runtime in models.items():
        for batch in BATCHES:
            scored, cached = _measure(runtime, batch)
            lines.append([name, str(batch), f"{scored:.1f}", *(f"{cached[rate]:.1f}" for rate in HIT_RATES)])
    columns = ["model", "batch", "just scoring", *(f"cache, {rate:.0%} hits" for rate in HIT_RATES)]
    memory = (
        f"Microseconds of processor time per transaction. A full cache takes {_bytes_per_entry():,.0f} bytes per score."
    )
    return f"{common.table(columns, lines)}\n\n{memory}"


def _measure(runtime: Runtime, batch: int) -> tuple[float, dict[float, float]]:
    """Medians over interleaved rounds: without the cache, and with it by hit rate.

    Processor time: nothing here waits, and what else runs on the machine counts less.
    """
    scored: list[float] = []
    cached: dict[float, list[float]] = {rate: [] for rate in HIT_RATES}
    known = _rows(0, KNOWN)
    for number in range(1, ROUNDS + 1):
        fresh = _rows(number, TRANSACTIONS)
        pieces = list(_pieces(fresh, batch))
        started = time.thread_time()
        for piece in pieces:
            runtime.score(piece).tolist()
        scored.append(time.thread_time() - started)
        for rate in HIT_RATES:
            cache = ScoreCache(MemoryPredictionCache(ENTRIES, 3_600))
            cache.scores(MODEL, known, runtime.score)
            pieces = list(_pieces(_mixed(fresh, known, rate, number), batch))
            started = time.thread_time()
            for piece in pieces:
                cache.scores(MODEL, piece, runtime.score)
            cached[rate].append(time.thread_time() - started)
    each = 1e6 / TRANSACTIONS
    return statistics.median(scored) * each, {rate: statistics.median(cached[rate]) * each for rate in HIT_RATES}


def _mixed(fresh: Rows, known: Rows, rate: float, seed: int) -> Rows:
    """As many rows as ``fresh`` has, this share of them known."""
    rng = np.random.default_rng(seed)
    rows = fresh.copy()
    hits = rng.random(len(rows)) < rate
    rows[hits] = known[rng.integers(0, len(known), int(hits.sum()))]
    return rows


def _pieces(rows: Rows, batch: int) -> Iterator[Rows]:
    for start in range(0, len(rows), batch):
        yield rows[start : start + batch].copy()


def _rows(seed: int, count: int) -> Rows:
    """Skewed positive values, some missing, no row twice."""
    rng = np.random.default_rng(seed)
    rows = rng.lognormal(2, 1, (count, FEATURES)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.05] = np.nan
    return rows


def _training_rows() -> tuple[Rows, NDArray[np.int8], Sequence[str]]:
    rows = _rows(99, TRAINING_ROWS)
    filled = np.nan_to_num(rows, nan=1.0)
    noise = np.random.default_rng(1).normal(size=len(rows))
    risk = filled[:, 0] / filled[:, 1] + np.log(filled[:, 2]) * filled[:, 3] / 20 + noise
    return rows, (risk > np.quantile(risk, 0.9)).astype(np.int8), [f"f{i}" for i in range(FEATURES)]


def _trees() -> Runtime:
    rows, frauds, names = _training_rows()
    fitted = xgboost.FAMILY.fit(rows, frauds, feature_names=names, params=TREES)
    return Runtime(export(fitted, Calibrator(1.0, 0.0), names))


def _linear() -> Runtime:
    rows, frauds, names = _training_rows()
    fitted = logistic_regression.FAMILY.fit(rows, frauds, feature_names=names)
    return Runtime(export(fitted, Calibrator(1.0, 0.0), names))


def _bytes_per_entry() -> float:
    rows = _rows(0, ENTRIES)
    cache = MemoryPredictionCache(ENTRIES, 3_600)
    gc.collect()
    before = _resident()
    for start in range(0, ENTRIES, 64):
        cache.put({MODEL + row.tobytes(): float(row[0]) for row in rows[start : start + 64]})
    return (_resident() - before) / ENTRIES


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
