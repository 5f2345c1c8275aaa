"""Small real bundles on disk, without training: a linear model in ONNX whose scores can be worked out by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fraudml.events.example import example
from fraudml.features.spec import FeatureSet
from fraudml.models import bundle
from fraudml.models.bundle import Manifest, Thresholds, TrainingRecord
from fraudml.models.runtime import Runtime

METRICS: dict[str, Any] = {
    "rows": 1_000,
    "frauds": 20,
    "roc_auc": 0.9,
    "average_precision": 0.6,
    "brier": 0.01,
    "calibration_error": 0.002,
    "recall_at_fpr_0.01": 0.5,
    "money": {"saved_per_day": 123.0, "saved_per_day_low": 100.0, "saved_per_day_high": 150.0, "cost_per_day": 40.0},
}


def linear_model(weights: Sequence[float], bias: float) -> bytes:
    """ONNX of log-odds = weights * features + bias, a missing value counting as 0; serialised."""
    constants = {
        "zero": np.array(0, np.float32),
        "weights": np.array(weights, np.float32)[:, None],
        "bias": np.array([bias], np.float32),
        "last_axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["column"]),
        helper.make_node("Squeeze", ["column", "last_axis"], ["margin"]),
        helper.make_node("Sigmoid", ["margin"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(weights)])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("probability", "margin")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def make_bundle(
    directory: Path,
    feature_set: FeatureSet,
    *,
    weights: Sequence[float] | None = None,
    bias: float = -3.0,
    thresholds: Thresholds = Thresholds(0.3, 0.9),  # noqa: B008
    family: str = "linear",
    metrics: dict[str, Any] | None = None,
    background: NDArray[np.float32] | None = None,
    parameters: dict[str, Any] | None = None,
) -> Manifest:
    """Write a bundle that loads, over the inputs of ``feature_set``; weights default to 0.1 each.

    Different weights or biases make bundles with different hashes. ``background`` defaults to zeros and ones.
    """
    width = len(feature_set.inputs)
    model = linear_model([0.1] * width if weights is None else weights, bias)
    inputs = np.random.default_rng(0).normal(size=(4, width)).astype(np.float32)
    inputs[-1] = np.nan
    if background is None:
        background = np.repeat(np.array([[0.0], [1.0]], np.float32), width, axis=1)
    manifest = Manifest(
        fraudml_version="0.0.0",
        created_at="2024-05-01T00:00:00+00:00",
        family=family,
        schema=feature_set.schema,
        features=feature_set.features,
        fingerprint=feature_set.fingerprint,
        training=TrainingRecord(
            since_us=1_700_000_000_000_000,
            until_us=1_710_000_000_000_000,
            rows=5_000,
            frauds=100,
            data_hash="d" * 64,
            seed=0,
            parameters=parameters or {},
            refitted=True,
        ),
        metrics=METRICS if metrics is None else metrics,
        thresholds=thresholds,
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        reference_inputs=bundle.as_rows(inputs),
        reference_scores=Runtime(model).score(inputs).tolist(),
        background=bundle.as_rows(background),
        example=example(feature_set.schema),
    )
    bundle.save(directory, model, manifest)
    return manifest
