"""Tensors as JSON and as bytes: what goes in comes out, and what is wrong is said."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fraudml.decisions.tensors import InferRequest, InferResponse, pack, unpack
from fraudml.errors import DataError

values = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 5), st.integers(1, 4)), elements=st.floats(width=32, allow_infinity=False)
)


def request(**changes: Any) -> bytes:
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]} | changes
    return json.dumps({"inputs": [{name: value for name, value in tensor.items() if value is not ...}]}).encode()


@given(tensors=st.lists(values, min_size=1, max_size=3), binary=st.sets(st.integers(0, 2)))
def test_what_is_packed_is_unpacked(tensors: list[np.ndarray[Any, Any]], binary: set[int]) -> None:
    named = {f"t{place}": tensor for place, tensor in enumerate(tensors)}
    packed = pack({"id": "7"}, "inputs", named, [f"t{place}" for place in binary])
    message, found = unpack(packed.body, packed.headers.get("Inference-Header-Content-Length"), InferRequest)
    assert message.id == "7"
    assert list(found) == list(named)
    for name, tensor in named.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [1.0, 2, 3e0, 4]])
def test_numbers_may_be_flat_or_by_rows(data: Any) -> None:
    _, found = unpack(request(data=data), None, InferRequest)
    assert found["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("data", [[None, 2, 3, 4], [float("nan"), 2, 3, 4], [[None, 2], [3, 4]]])
def test_null_and_what_python_writes_for_nan_are_missing(data: Any) -> None:
    _, found = unpack(request(data=data, datatype="FP64"), None, InferRequest)
    np.testing.assert_array_equal(found["x"], [[np.nan, 2], [3, 4]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": [1, 2, 3]}, "has 3 numbers, its shape says 4"),
        ({"data": [[1, 2], [3]]}, "equal length"),
        ({"data": [1, 2, 3, True]}, "expected numbers"),
        ({"data": [1, 2, 3, "4"]}, "expected numbers"),
        ({"data": "1234"}, "expected numbers"),
        ({"data": [float("inf"), float("nan")]}, "Infinity is no number"),
        ({"data": ...}, r"inputs\[0\].data: missing"),
        ({"data": None}, "expected numbers"),
        ({"datatype": "BYTES"}, "expected FP32 or FP64"),
        ({"shape": [-1, -4]}, "shape"),
        ({"shape": [1] * 9}, "shape"),
        ({"shape": [2.5]}, "shape"),
        ({"parameters": {"binary_data_size": 16}}, "expected none beside binary_data_size"),
        ({"parameters": {"binary_data_size": 16}, "data": ...}, "take 16 bytes"),
        ({"parameters": {"binary_data_size": "16"}, "data": ...}, "take 16 bytes"),
        ({"parameters": {"binary_data_size": 16.0}, "data": ...}, "take 16 bytes"),
        ({"shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], "data": []}, "too large"),
        ({"name": 7}, "name"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        unpack(request(**changes), None, InferRequest)


def test_the_length_of_the_json_has_to_be_right() -> None:
    packed = pack({}, "inputs", {"x": np.zeros((1, 2), np.float32)}, ["x"])
    for length, said in (
        ("x", "number"),
        ("9999", "more bytes"),
        ("-1", "number"),
        ("9" * 30, "number"),
        ("4", "JSON"),
    ):
        with pytest.raises(DataError, match=said):
            unpack(packed.body, length, InferRequest)
    with pytest.raises(DataError, match="4 bytes are left over"):
        unpack(packed.body + b"four", str(packed.header_length), InferRequest)
    with pytest.raises(DataError, match="two of this name"):
        unpack(
            b'{"inputs":[%b,%b]}' % ((b'{"name":"x","shape":[0],"datatype":"FP32","data":[]}',) * 2), None, InferRequest
        )


@given(body=st.binary(max_size=80), length=st.none() | st.text(max_size=4))
def test_any_bytes_are_a_message_or_an_error_of_ours(body: bytes, length: str | None) -> None:
    for kind in (InferRequest, InferResponse):
        with suppress(DataError):
            unpack(body, length, kind)  # type: ignore[type-var]


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_any_data_is_numbers_or_an_error_of_ours(data: Any) -> None:
    try:
        _, found = unpack(request(data=data, shape=[1]), None, InferRequest)
    except DataError:
        return
    assert found["x"].shape == (1,)
