"""Messages of the Open Inference Protocol (V2) over HTTP: tensors as JSON, or as bytes that follow the JSON.

The service answers such requests, and an adapter sends them. Missing values are NaN, for which JSON has no word: they
are ``null`` there, which MLServer and our own service take. The binary form has NaN itself; it is the extension
``binary_tensor_data`` that Triton has. Sources: "Open Inference Protocol" at kserve.github.io, and Triton's "Binary
Tensor Data Extension".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.errors import DataError
from fraudml.models.runtime import INPUT, MARGIN, PROBABILITY

FEATURES, OUTPUTS = INPUT, (PROBABILITY, MARGIN)  # the tensors of a model, in both directions

BINARY = "binary_tensor_data"  # the extension's name
HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY_TYPE, JSON_TYPE = "application/octet-stream", "application/json"
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
MOST_DIMENSIONS = 8
NO_DATA = msgspec.Raw(b"")
_NESTED = re.compile(rb"\s*\[\s*\[")

Document = Mapping[str, Any]


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of a message. ``data`` is its numbers in row-major order, flat or by rows; none when they are binary."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = NO_DATA
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, frozen=True):
    """What a client sends to ``.../infer``; without ``outputs`` it wants all."""

    inputs: list[Tensor]
    id: str = ""
    outputs: list[WantedOutput] = []
    parameters: dict[str, Any] = {}

    def tensors(self) -> tuple[str, list[Tensor]]:
        """Its tensors, and the name of the field that has them."""
        return "inputs", self.inputs


class InferResponse(msgspec.Struct, frozen=True):
    """What a server answers."""

    outputs: list[Tensor]
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None

    def tensors(self) -> tuple[str, list[Tensor]]:
        """The same as for a request."""
        return "outputs", self.outputs


class Packed(NamedTuple):
    """A message to send; ``header_length`` is that of the JSON where bytes follow it, the value of the header."""

    body: bytes
    header_length: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to it."""
        if self.header_length is None:
            return {"Content-Type": JSON_TYPE}
        return {"Content-Type": BINARY_TYPE, HEADER_LENGTH: str(self.header_length)}


M = TypeVar("M", InferRequest, InferResponse)


def pack(
    document: Document, key: str, tensors: Mapping[str, NDArray[np.float32]], binary: Sequence[str] = ()
) -> Packed:
    """A message with FP32 tensors under ``key`` (inputs, outputs); those named in ``binary`` as bytes.

    >>> pack({}, "inputs", {"x": np.array([[1.5, np.nan]], np.float32)}).body
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.5,null]}]}'
    """
    described, rest = [], []
    for name, values in tensors.items():
        own: dict[str, Any] = {"name": name, "shape": values.shape, "datatype": "FP32"}
        if name in binary:
            rest.append(values.astype("<f4", copy=False).tobytes())
            own["parameters"] = {"binary_data_size": len(rest[-1])}
        else:
            own["data"] = values.ravel().tolist()
        described.append(own)
    header = msgspec.json.encode({**document, key: described})
    return Packed(b"".join([header, *rest]), len(header)) if rest else Packed(header)


def unpack(body: bytes, header_length: str | None, kind: type[M]) -> tuple[M, dict[str, NDArray[np.float64]]]:
    """A message and its tensors by name, in their shapes; raises DataError with what is wrong.

    ``header_length``: the header of that name, where there is one.

    >>> body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.5,null]}]}'
    >>> unpack(body, None, InferRequest)[1]["x"].tolist()
    [[1.5, nan]]
    """
    header, rest = body, memoryview(b"")
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 19):
            raise DataError(f"the header {HEADER_LENGTH} has to be a number of bytes")
        size = int(header_length)
        if size > len(body):
            raise DataError(f"the header {HEADER_LENGTH} says more bytes than there are")
        header, rest = body[:size], memoryview(body)[size:]
    message = _document(header, kind)
    key, tensors = message.tensors()
    found: dict[str, NDArray[np.float64]] = {}
    for place, tensor in enumerate(tensors):
        path = f"{key}[{place}]"
        if tensor.name in found:
            raise DataError(f"{path}.name: there are two of this name")
        found[tensor.name], rest = _tensor(tensor, path, rest)
    if len(rest):
        raise DataError(f"{len(rest)} bytes are left over after the tensors")
    return message, found


def _document(header: bytes, kind: type[M]) -> M:
    try:
        try:
            return msgspec.json.decode(header, type=kind)
        except msgspec.DecodeError:
            if b"NaN" not in header:
                raise
            # no JSON, but what Python's own encoder makes of missing values
            return msgspec.json.decode(msgspec.json.encode(json.loads(header, parse_constant=_missing)), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"the JSON cannot be used: {str(error).splitlines()[0]}") from None


def _missing(constant: str) -> None:
    if constant != "NaN":
        raise ValueError(f"{constant} is no number")


def _tensor(tensor: Tensor, path: str, rest: memoryview) -> tuple[NDArray[np.float64], memoryview]:
    """The tensor's values, and the bytes after them."""
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise DataError(f"{path}.datatype: expected {' or '.join(DTYPES)}")
    # empty ones, too, have to be of a shape that an array can have
    if (
        len(tensor.shape) > MOST_DIMENSIONS
        or min(tensor.shape, default=0) < 0
        or math.prod(filter(None, tensor.shape)) >= 2**31
    ):
        raise DataError(f"{path}.shape: expected at most {MOST_DIMENSIONS} lengths, none negative or too large")
    count = math.prod(tensor.shape)
    size, data = tensor.parameters.get("binary_data_size"), bytes(tensor.data)
    if size is not None:
        if data not in (b"", b"null"):
            raise DataError(f"{path}.data: expected none beside binary_data_size")
        if type(size) is not int or size != count * dtype.itemsize or size > len(rest):
            raise DataError(f"{path}: its shape and datatype take {count * dtype.itemsize} bytes")
        values = np.frombuffer(rest[:size], dtype).astype(np.float64)
        return values.reshape(tensor.shape), rest[size:]
    if not data:
        raise DataError(f"{path}.data: missing")
    values = _numbers(data, f"{path}.data")
    if len(values) != count:
        raise DataError(f"{path}.data: has {len(values)} numbers, its shape says {count}")
    return values.reshape(tensor.shape), rest


def _numbers(data: bytes, path: str) -> NDArray[np.float64]:
    """Flat numbers, or rows of equal length, as one flat array; ``null`` is NaN."""
    try:
        if _NESTED.match(data):
            return np.array(msgspec.json.decode(data, type=list[list[float | None]]), np.float64).ravel()
        return np.array(msgspec.json.decode(data, type=list[float | None]), np.float64)
    except (msgspec.MsgspecError, ValueError):  # the latter: rows of different lengths
        raise DataError(f"{path}: expected numbers or null, flat or by rows of equal length") from None
