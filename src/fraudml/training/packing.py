"""A finished candidate becomes a bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fraudml import __version__
from fraudml.events.example import example
from fraudml.models import bundle
from fraudml.models.cascade import Cascade
from fraudml.models.runtime import Runtime
from fraudml.training import export, stages
from fraudml.training.families.cascade import FittedCascade
from fraudml.training.train import Candidate, Result

BACKGROUND_ROWS = 32
REFERENCE_ROWS = 16


def pack(result: Result, candidate: Candidate, directory: Path) -> bundle.Manifest:
    """Export a candidate to ONNX, check that it scores like the native model, and write its bundle.

    Raises ExportError when the scores differ; nothing is written then.
    """
    rng = np.random.default_rng(result.options.seed)
    feature_set, trained_on = result.feature_set, result.trained_on(candidate)
    used, period = trained_on.sample, trained_on.period
    model = export.export(candidate.model, candidate.calibrator, feature_set.input_names)
    export.verify_equal(model, candidate.model, candidate.calibrator, used.x)
    runtime = Runtime(model)
    picked = used.x[_sample(rng, np.ones(len(used), dtype=bool), REFERENCE_ROWS)]
    inputs = np.concatenate([picked, np.full((1, picked.shape[1]), np.nan, dtype=np.float32)])
    manifest = bundle.Manifest(
        fraudml_version=__version__,
        created_at=bundle.now_iso(),
        family=candidate.family,
        schema=feature_set.schema,
        features=feature_set.features,
        fingerprint=feature_set.fingerprint,
        training=bundle.TrainingRecord(
            since_us=period.since_us,
            until_us=period.until_us + 1,
            rows=period.rows,
            frauds=period.frauds,
            data_hash=trained_on.data_hash,
            seed=result.options.seed,
            parameters=candidate.model.params,
            refitted=candidate.refitted,
            code=result.options.origin.code,
            command=result.options.origin.command,
        ),
        metrics={**candidate.test_metrics, "money": candidate.money},
        thresholds=candidate.thresholds,
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        reference_inputs=bundle.as_rows(inputs),
        reference_scores=runtime.score(inputs).tolist(),
        background=bundle.as_rows(used.x[_sample(rng, used.y == 0, BACKGROUND_ROWS)]),
        example=example(feature_set.schema),
        cascade=_cascade(candidate, model, used.x),
    )
    bundle.save(directory, model, manifest)
    return manifest


def _cascade(candidate: Candidate, model: bytes, rows: NDArray[np.float32]) -> Cascade | None:
    if not isinstance(candidate.model, FittedCascade):
        return None
    shares = [metrics["fast_share"] for metrics in (candidate.valid_metrics, candidate.test_metrics)]
    return stages.describe(candidate.model, candidate.calibrator, shares, model, rows)


def _sample(rng: np.random.Generator, rows: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """In random order: who takes the first few still sees the whole period."""
    places = np.flatnonzero(rows)
    return rng.choice(places, size=min(count, len(places)), replace=False)
