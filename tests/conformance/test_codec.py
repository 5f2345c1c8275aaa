"""Every codec reads what it may, refuses everything else in one way, and writes the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.decisions.codec import Codec, JsonCodec
from fraudml.errors import RowError
from fraudml.events.cards import CardHasher
from fraudml.events.label import Label
from tests.support.scoring import SCHEMA, T0, decision, row, transaction


class Case(NamedTuple):
    """A codec for SCHEMA with what its messages look like: transaction 1, and that it was fraud, known at T0."""

    codec: Codec
    transaction: bytes
    label: bytes


CASES = {
    "json": Case(
        JsonCodec(SCHEMA, CardHasher(b"key"), max_ahead_s=86_400),
        json.dumps(row(1)).encode(),
        b'{"transaction_id": "t1", "is_fraud": true, "known_at": "2024-05-01T00:00:00Z"}',
    )
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def readers(codec: Codec) -> list[Callable[[bytes | None], object]]:
    return [codec.decode_transaction, codec.decode_label]


def refused(read: Callable[[bytes | None], object], value: bytes | None) -> str:
    with pytest.raises(RowError) as caught:
        read(value)
    return str(caught.value)


@cases
def test_what_is_right_is_read(case: Case) -> None:
    assert case.codec.decode_transaction(case.transaction) == transaction(1)
    assert case.codec.decode_label(case.label) == Label("t1", True, T0)


@cases
@given(value=st.binary(max_size=200), data=st.data())
def test_whatever_a_message_holds_is_read_or_refused(case: Case, value: bytes, data: st.DataObject) -> None:
    for right in (case.transaction, case.label):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(right))] * 2)))
        for raw in (value, right[:start] + value + right[end:], right[:start], right + value):
            for read in readers(case.codec):
                with suppress(RowError):
                    read(raw)


@cases
@pytest.mark.parametrize("value", [None, b""])
def test_a_tombstone_says_so(case: Case, value: bytes | None) -> None:
    for read in readers(case.codec):
        assert "empty (a tombstone)" in refused(read, value)


@cases
def test_a_message_of_the_other_kind_is_refused(case: Case) -> None:
    refused(case.codec.decode_transaction, case.label)
    refused(case.codec.decode_label, case.transaction)


@cases
def test_the_same_decision_is_the_same_bytes(case: Case) -> None:
    once, again = (decision(transaction(1), 5, score=None), decision(transaction(1), 5, score=None))
    assert case.codec.encode_decision(once) == case.codec.encode_decision(again)
    assert case.codec.encode_alert(once) == case.codec.encode_alert(again) != case.codec.encode_decision(once)
