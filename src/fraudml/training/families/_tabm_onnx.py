"""The network of the deep family as an ONNX graph of plain operators: step by step what ``_tabm.py`` computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.training.families import _onnx, base
from fraudml.training.families._piecewise import Encoding
from fraudml.training.families._tabm import Shape, Weights

if TYPE_CHECKING:
    import onnx

Nodes = list["onnx.NodeProto"]
Constants = dict[str, npt.ArrayLike]


def margin_model(encoding: Encoding, shape: Shape, weights: Weights, shift: float) -> onnx.ModelProto:
    """From ``features`` float32 ``[n, k]`` to ``margin`` float32 ``[n]``, the members' mean plus ``shift``."""
    nodes: Nodes = []
    constants: Constants = {}
    for part, needed in (
        _encoded(encoding),
        _embedded(encoding, shape, weights),
        _layers(shape, weights),
        _head(shape, weights, shift),
    ):
        nodes += part
        constants |= needed
    return _onnx.margin_model(nodes, constants, len(shape.monotone))


def _step(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op, inputs, [output], **attributes)


def _encoded(encoding: Encoding) -> tuple[Nodes, Constants]:
    """``bins`` [n, k, t] and ``missing_flags`` [n, k, 1]."""
    from onnx import TensorProto

    nodes = [
        _step("IsNaN", ["features"], "missing"),
        _step("Where", ["missing", "fill", "features"], "filled"),
        _step("Clip", ["filled", "lowest", "highest"], "known"),
        _step("Unsqueeze", ["known", "axis_2"], "columns"),
        _step("Sub", ["columns", "lower"], "above"),
        _step("Div", ["above", "bin_width"], "position"),
        _step("Clip", ["position", "zero", "one"], "bins"),
        _step("Cast", ["missing"], "missing_numbers", to=TensorProto.FLOAT),
        _step("Unsqueeze", ["missing_numbers", "axis_2"], "missing_flags"),
    ]
    constants: Constants = {
        "fill": encoding.fill,
        "lowest": -base.HUGE,
        "highest": base.HUGE,
        "lower": encoding.lower,
        "bin_width": encoding.width,
        "zero": 0.0,
        "one": 1.0,
        "axis_2": np.array([2]),
    }
    return nodes, constants


def _embedded(encoding: Encoding, shape: Shape, weights: Weights) -> tuple[Nodes, Constants]:
    """``embedded`` [n, k * e]: one small product per feature, which is why features come first for a moment."""
    nodes = [
        _step("Transpose", ["bins"], "bins_by_feature", perm=[1, 0, 2]),
        _step("MatMul", ["bins_by_feature", "embed_w"], "products_by_feature"),
        _step("Transpose", ["products_by_feature"], "products", perm=[1, 0, 2]),
        _step("Mul", ["missing_flags", "embed_missing"], "missing_part"),
        _step("Add", ["products", "missing_part"], "parts"),
        _step("Add", ["parts", "embed_b"], "embeddings"),
        _step("Relu", ["embeddings"], "bent_embeddings"),
        _step("Flatten", ["bent_embeddings"], "embedded", axis=1),
    ]
    free = np.array([[[not direction]] for direction in shape.monotone], np.float32)
    return nodes, {
        "embed_w": weights["embed_w"] * free,
        "embed_missing": weights["embed_missing"] * encoding.flagged[:, None],
        "embed_b": weights["embed_b"],
    }


def _layers(shape: Shape, weights: Weights) -> tuple[Nodes, Constants]:
    """``h{blocks}`` [n, m, d]."""
    nodes = [_step("Unsqueeze", ["embedded", "axis_1"], "for_members"), *_layer("in", "for_members", "h0")]
    for block in range(shape.blocks):
        name, before, after = f"block{block}", f"h{block}", f"h{block + 1}"
        nodes += [*_layer(name, before, f"{name}_out"), _step("Add", [before, f"{name}_out"], after)]
    names = ["in", *(f"block{block}" for block in range(shape.blocks))]
    constants: Constants = {f"{name}_{part}": weights[f"{name}_{part}"] for name in names for part in "rwsb"}
    return nodes, constants | {"axis_1": np.array([1])}


def _layer(name: str, x: str, output: str) -> Nodes:
    return [
        _step("Mul", [x, f"{name}_r"], f"{name}_in"),
        _step("MatMul", [f"{name}_in", f"{name}_w"], f"{name}_product"),
        _step("Mul", [f"{name}_product", f"{name}_s"], f"{name}_scaled"),
        _step("Add", [f"{name}_scaled", f"{name}_b"], f"{name}_sum"),
        _step("Relu", [f"{name}_sum"], output),
    ]


def _head(shape: Shape, weights: Weights, shift: float) -> tuple[Nodes, Constants]:
    """The mean over members of their margins, [n, 1]: one product over all members' outputs."""
    nodes = [
        _step("Flatten", [f"h{shape.blocks}"], "h_flat", axis=1),
        _step("MatMul", ["h_flat", "head_w"], "head_product"),
        _step("Add", ["head_product", "head_b"], "free_margin"),
    ]
    constants: Constants = {
        "head_w": weights["head_w"].reshape(-1, 1) / shape.members,
        "head_b": float(weights["head_b"].mean()) + shift,
    }
    if not shape.held:
        return nodes, constants
    slopes = np.zeros((len(shape.monotone), shape.bins, len(shape.held)), np.float32)
    for number, column in enumerate(shape.held):
        slopes[column, :, number] = shape.monotone[column] * np.logaddexp(0, weights["curve"][number])
    nodes += [
        _step("Flatten", ["bins"], "bins_flat", axis=1),
        _step("MatMul", ["bins_flat", "slopes"], "curves"),
        _step("MatMul", [f"h{shape.blocks}", "factor_w"], "factor_product"),
        _step("Add", ["factor_product", "factor_b"], "factor_sum"),
        _step("Softplus", ["factor_sum"], "factors"),
        _step("ReduceMean", ["factors", "axis_1"], "mean_factors", keepdims=0),
        _step("Mul", ["curves", "mean_factors"], "held_parts"),
        _step("ReduceSum", ["held_parts", "axis_1"], "held_margin", keepdims=1),
        _step("Add", ["free_margin", "held_margin"], "sum"),
    ]
    constants |= {
        "slopes": slopes.reshape(-1, len(shape.held)),
        "factor_w": weights["factor_w"],
        "factor_b": weights["factor_b"],
    }
    return nodes, constants
