"""Weights in fewer bits, for models that multiply matrices; the arithmetic stays float32.

Each weight matrix is stored as float16, or as int8 with a float32 scale per output column (symmetric, the largest
weight at 127), and the graph begins by making float32 of it again. The file shrinks to nearly a half or a quarter;
ONNX Runtime holds float32 once a model is loaded, so scoring takes the memory and time it took.

Activations are not quantised, as ``onnxruntime.quantization.quantize_dynamic`` would: it takes their scale from the
batch, so the score of a transaction would depend on those scored beside it, and no decision could be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import ConfigError

if TYPE_CHECKING:
    import onnx

MIN_SIZE = 16  # numbers in a matrix; below, the node that makes float32 of it is larger than what is saved
INT8_MAX = 127


class Weights(StrEnum):
    """How a weight is stored."""

    float16 = "float16"
    int8 = "int8"


def shrink(model: bytes, weights: Weights) -> bytes:
    """The serialised model with its weight matrices stored in fewer bits; raises ConfigError when it has none.

    A matrix with a weight that float16 cannot hold (above 65,504) stays float32, and so do vectors: biases, and the
    scales and limits of preprocessing, are few and their precision counts.
    """
    import onnx

    document = onnx.load_from_string(model)
    graph = document.graph
    store = {Weights.float16: _as_float16, Weights.int8: _as_int8}[weights]
    nodes: list[onnx.NodeProto] = []
    for tensor in [each for each in graph.initializer if _is_matrix(each)]:
        made = store(tensor.name, onnx.numpy_helper.to_array(tensor))
        if made is not None:
            graph.initializer.remove(tensor)
            graph.initializer.extend(made[0])
            nodes.append(made[1])
    if not nodes:
        raise ConfigError(
            f"--weights {weights} is for models with weight matrices (logistic_regression, deep) and this one has "
            "none; prune trees with --tolerance, or use --features N"
        )
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(document)
    content: bytes = document.SerializeToString(deterministic=True)
    return content


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    import onnx

    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2 and np.prod(tensor.dims) >= MIN_SIZE


_Stored = tuple[list[Any], Any]  # the tensors that are kept, and the node that makes float32 of them
_Store = Callable[[str, NDArray[np.float32]], _Stored | None]


def _as_float16(name: str, weights: NDArray[np.float32]) -> _Stored | None:
    from onnx import TensorProto, helper, numpy_helper

    with np.errstate(over="ignore"):
        short = weights.astype(np.float16)
    if not np.isfinite(short).all():
        return None
    stored = f"{name}_float16"
    return [numpy_helper.from_array(short, stored)], helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)


def _as_int8(name: str, weights: NDArray[np.float32]) -> _Stored | None:
    from onnx import helper, numpy_helper

    if not np.isfinite(weights).all():
        return None
    largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
    scale = np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)
    codes = np.clip(np.rint(weights / scale), -INT8_MAX, INT8_MAX).astype(np.int8)
    names = [f"{name}_int8", f"{name}_scale"]
    tensors = [numpy_helper.from_array(array, each) for array, each in zip((codes, scale), names, strict=True)]
    return tensors, helper.make_node("DequantizeLinear", names, [name], axis=weights.ndim - 1)
