"""Reading JSON strictly and fast agrees with reading it strictly and slowly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.errors import RowError
from fraudml.events.strict_json import decode

names = st.sampled_from(["a", "b", ":", '":', "\\", '"', "a\\", ""])
texts = st.sampled_from(["", ":", '":', '" :', "\\", '\\"', "12:30:00", '{"a":1}', "x"])
documents = st.recursive(
    texts | st.integers(-9, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(names, inner), max_size=4).map(tuple),
    max_leaves=8,
)


def write(value: Any) -> str:
    """JSON in which tuples of pairs are objects, repeated names and all."""
    if isinstance(value, tuple):
        return "{" + ",".join(f"{json.dumps(name)} : {write(item)}" for name, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value)


def repeats(value: Any) -> bool:
    if isinstance(value, tuple):
        found = [name for name, _ in value]
        return len(set(found)) < len(found) or any(repeats(item) for _, item in value)
    return isinstance(value, list) and any(map(repeats, value))


@given(documents)
def test_repeated_names_are_always_seen(document: Any) -> None:
    text = write(document)
    if repeats(document):
        with pytest.raises(RowError, match="given twice"):
            decode(text.encode())
    else:
        assert decode(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "raw",
    [b"\xff", b'"\xff"', b"nope", b"NaN", b"1 2", b'"\\ud800"', b"[" * 10_000, b"[" * 600 + b"]" * 600],
)
def test_what_is_no_json_is_a_row_error(raw: bytes) -> None:
    with pytest.raises(RowError, match="expected JSON"):
        decode(raw)


def test_a_repeated_name_among_very_many_is_found_at_once() -> None:
    names = ",".join(f'"a{i}":1' for i in range(100_000))
    with pytest.raises(RowError, match="a99999: given twice"):
        decode(f'{{{names},"a99999":1}}'.encode())


def test_a_number_of_very_many_digits_beside_an_escape_is_no_failure() -> None:
    with pytest.raises(RowError, match="expected JSON"):
        decode(b'{"a":"\\n","b":1' + b"0" * 5_000 + b"}")
