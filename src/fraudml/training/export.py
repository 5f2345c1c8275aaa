"""One ONNX graph with preprocessing, model and calibration inside, and the proof that it scores the same.

Input ``features`` float32 ``[n, k]``, NaN for missing. Outputs ``probability`` float32 ``[n]``, calibrated, and
``margin`` float32 ``[n]``, its log-odds: explanations need them, and near 0 and 1 they keep their precision. A cascade
also gives ``fast_probability`` and ``fast_margin``, the fast model's own, and ``stage`` int64 ``[n]``: 1 where the
accurate model decided.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.errors import ExportError
from fraudml.models.runtime import Runtime
from fraudml.training.calibrate import Calibrator
from fraudml.training.families.base import FittedModel, Matrix
from fraudml.training.families.cascade import FittedCascade

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-5  # largest allowed difference of a probability between ONNX and the training library
CHECK_ROWS = 1_000  # rows of each kind that are compared
SINGLE_ROWS = 16  # ONNX Runtime scores one row by other code than a batch


def export(fitted: FittedModel, calibrator: Calibrator, feature_names: Sequence[str]) -> bytes:
    """The model as serialised ONNX; the same model gives the same bytes. Check them with :func:`verify_equal`."""
    from onnx import TensorProto, checker, helper, numpy_helper

    model = fitted.to_onnx()
    graph = model.graph
    width = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    if width != len(feature_names):
        raise ExportError(f"the model takes {width} features but {len(feature_names)} names were given")
    constants = (("slope", calibrator.slope), ("intercept", calibrator.intercept))
    for name, value in constants:
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"calibration_{name}"))
    outputs = []
    for output in graph.output:
        if not output.name.endswith("margin"):
            outputs.append(output)
            continue
        prefix = output.name.removesuffix("margin")
        _rename(graph, output.name, f"{prefix}uncalibrated")
        graph.node.extend(_calibration(prefix))
        outputs.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])
            for name in (f"{prefix}probability", output.name)
        )
    del graph.output[:]
    graph.output.extend(outputs)
    helper.set_model_props(model, {"feature_names": json.dumps(list(feature_names))})
    checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _calibration(prefix: str) -> list[onnx.NodeProto]:
    """From the model's own margin to the calibrated one and its probability."""
    from onnx import helper

    raw, scaled, margin = f"{prefix}uncalibrated", f"{prefix}calibration_scaled", f"{prefix}margin"
    return [
        helper.make_node("Mul", [raw, "calibration_slope"], [scaled]),
        helper.make_node("Add", [scaled, "calibration_intercept"], [margin]),
        helper.make_node("Sigmoid", [margin], [f"{prefix}probability"]),
    ]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def verify_equal(onnx_bytes: bytes, fitted: FittedModel, calibrator: Calibrator, X: Matrix) -> None:
    """Raise :class:`ExportError` if any probability differs by more than 1e-5 between ONNX and native.

    Compared are up to 1,000 rows of ``X`` (float32 ``[n, k]``), the same with values missing at random, with
    extreme values, and with values exactly on, just below and just above the thresholds of the model's trees. Rows are
    left out that float32 may send to a cascade's other model.
    """
    import onnx

    runtime = Runtime(onnx_bytes)  # what will serve
    rows = _check_rows(X, _thresholds(onnx.load_from_string(onnx_bytes)))
    if isinstance(fitted, FittedCascade):
        rows = rows[~fitted.at_edge(rows)]
    native = calibrator.apply(fitted.margin(rows))
    _compare(runtime.score(rows), native, "in one batch")
    picked = np.linspace(0, len(rows) - 1, min(SINGLE_ROWS, len(rows))).astype(int)
    alone = np.concatenate([runtime.score(rows[[i]]) for i in picked])
    _compare(alone, native[picked], "one by one")


def _compare(exported: npt.NDArray[np.float64], native: npt.NDArray[np.float64], how: str) -> None:
    difference = np.abs(exported - native)
    wrong = ~(difference <= TOLERANCE)  # so that a NaN is wrong
    if wrong.any():
        worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
        raise ExportError(
            f"the ONNX model scores {int(wrong.sum())} of {len(wrong)} check rows ({how}) differently from the "
            f"trained model, at worst {exported[worst]:.7g} instead of {native[worst]:.7g} "
            f"(allowed: {TOLERANCE:g}); do not use it, and report this with the versions of onnxruntime and of "
            "the training library"
        )


def _thresholds(model: onnx.ModelProto) -> dict[int, Matrix]:
    """The values that each feature (by its column) is compared with, in all tree ensembles of a graph."""
    from onnx import numpy_helper

    found: dict[int, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "TreeEnsemble":
            attributes = {attribute.name: attribute for attribute in node.attribute}
            splits = numpy_helper.to_array(attributes["nodes_splits"].t)
            for column, value in zip(attributes["nodes_featureids"].ints, splits, strict=True):
                found.setdefault(column, []).append(value)
    return {column: np.unique(np.array(values, np.float32)) for column, values in sorted(found.items())}


def _check_rows(X: Matrix, thresholds: dict[int, Matrix]) -> Matrix:
    """Float32 ``[m, k]`` rows that are likely to show a difference; the same ``X`` gives the same rows."""
    rng = np.random.default_rng(0)
    X = np.asarray(X, np.float32)
    picked = np.sort(rng.choice(len(X), min(CHECK_ROWS, len(X)), replace=False))
    plain = X[picked]

    holes = plain.copy()
    holes[rng.random(holes.shape) < rng.random((len(holes), 1))] = np.nan
    extremes = plain.copy()
    odd_values = np.array([0, -1, 1e-30, -1e9, 1e9, 1e20, -1e20], np.float32)
    odd = rng.random(extremes.shape) < 0.2
    extremes[odd] = rng.choice(odd_values, int(odd.sum()))
    uniform = np.repeat(np.append(odd_values, np.float32(np.nan))[:, None], X.shape[1], axis=1)

    boundary = plain.copy()
    for column, values in thresholds.items():
        on = rng.choice(values, len(boundary))
        towards = rng.choice(np.array([-np.inf, 0, np.inf], np.float32), len(boundary))
        with np.errstate(over="ignore", under="ignore"):
            boundary[:, column] = np.where(towards == 0, on, np.nextafter(on, towards))
    return np.concatenate([plain, holes, extremes, uniform, boundary])
