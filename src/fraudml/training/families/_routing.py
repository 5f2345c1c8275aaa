"""One graph out of two: a fast model looks at every row, an accurate one only at those the fast one is not sure about.

The rows in the band are gathered, go through the accurate model and are scattered back. No branch is needed: a batch
without a row in the band sends an empty batch through the accurate part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.training.calibrate import Calibrator
from fraudml.training.families import _onnx

if TYPE_CHECKING:
    import onnx

FAST, ACCURATE = "fast", "accurate"
FAST_MARGIN = "fast_margin"
STAGE = "stage"


def routed_model(
    fast: onnx.ModelProto,
    accurate: onnx.ModelProto,
    calibrators: tuple[Calibrator, Calibrator],
    band: tuple[float, float],
    *,
    within_band: bool,
) -> onnx.ModelProto:
    """A graph from ``features`` float32 ``[n, k]`` to three outputs ``[n]``.

    ``margin`` float32: the accurate model's where the fast one's lies in ``band`` (both ends belong to it), kept
    within the band if ``within_band``, and the fast model's elsewhere; ``fast_margin`` float32; ``stage`` int64: 1
    where the accurate model decided, else 0. Both models' margins are calibrated before they are compared.
    """
    from onnx import TensorProto, helper

    constants: dict[str, npt.NDArray[Any]] = {
        "low": np.array(band[0], np.float32),
        "high": np.array(band[1], np.float32),
        "first_axis": np.array([0], np.int64),
    }
    for stage, calibrator in zip((FAST, ACCURATE), calibrators, strict=True):
        constants[f"{stage}_slope"] = np.array(calibrator.slope, np.float32)
        constants[f"{stage}_intercept"] = np.array(calibrator.intercept, np.float32)
    nodes = [
        *_calibrated(fast, FAST, "features", FAST_MARGIN),
        helper.make_node("GreaterOrEqual", [FAST_MARGIN, "low"], ["not_below"]),
        helper.make_node("LessOrEqual", [FAST_MARGIN, "high"], ["not_above"]),
        helper.make_node("And", ["not_below", "not_above"], ["in_band"]),
        helper.make_node("Cast", ["in_band"], [STAGE], to=TensorProto.INT64),
        helper.make_node("NonZero", ["in_band"], ["places"]),
        helper.make_node("Squeeze", ["places", "first_axis"], ["rows"]),
        helper.make_node("Gather", ["features", "rows"], ["rows_features"], axis=0),
        *_calibrated(accurate, ACCURATE, "rows_features", "rows_accurate"),
    ]
    answers = "rows_accurate"
    if within_band:
        answers = "rows_within"
        nodes.append(helper.make_node("Clip", ["rows_accurate", "low", "high"], [answers]))
    nodes.append(helper.make_node("ScatterElements", [FAST_MARGIN, "rows", answers], ["margin"], axis=0))
    return _assembled(nodes, constants, fast, accurate)


def _calibrated(part: onnx.ModelProto, stage: str, reads: str, gives: str) -> Iterator[onnx.NodeProto]:
    """The nodes of a part from rows of features to its calibrated margin; what is inside is named ``<stage>/...``."""
    from onnx import compose, helper

    for node in compose.add_prefix(part, f"{stage}/").graph.node:
        node.input[:] = [reads if name == f"{stage}/features" else name for name in node.input]
        yield node
    yield helper.make_node("Mul", [f"{stage}/margin", f"{stage}_slope"], [f"{stage}_scaled"])
    yield helper.make_node("Add", [f"{stage}_scaled", f"{stage}_intercept"], [gives])


def _assembled(
    nodes: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    fast: onnx.ModelProto,
    accurate: onnx.ModelProto,
) -> onnx.ModelProto:
    from onnx import TensorProto, compose, helper, numpy_helper

    outputs = [("margin", TensorProto.FLOAT), (FAST_MARGIN, TensorProto.FLOAT), (STAGE, TensorProto.INT64)]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    for part, stage in ((fast, FAST), (accurate, ACCURATE)):
        weights.extend(compose.add_prefix(part, f"{stage}/").graph.initializer)
    graph = helper.make_graph(
        nodes,
        "fraudml",
        list(fast.graph.input),
        [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in outputs],
        weights,
    )
    opsets = [helper.make_opsetid("", _onnx.OPSET), helper.make_opsetid("ai.onnx.ml", _onnx.ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_onnx.IR_VERSION, producer_name="fraudml")
