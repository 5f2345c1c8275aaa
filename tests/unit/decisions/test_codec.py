"""JSON in messages: what comes that is no JSON, and what goes out."""

from __future__ import annotations

import json
import random

import pytest

from fraudml.decisions.answer import encode, prediction
from fraudml.decisions.codec import JsonCodec
from fraudml.decisions.record import Action
from fraudml.errors import RowError
from fraudml.events.cards import CardHasher
from tests.support.scoring import SCHEMA, decision, row, transaction

CODEC = JsonCodec(SCHEMA, CardHasher(b"key"), max_ahead_s=86_400)
RIGHT = json.dumps(row(1))
MANY = 10_000_000
OTHER = "expected JSON in UTF-8 without a byte order mark, not another encoding or format"
DEEP = "expected JSON that is not nested this deep"
BROKEN = {
    "UTF-16": (RIGHT.encode("utf-16"), OTHER),
    "UTF-16 without a mark": (RIGHT.encode("utf-16-be"), OTHER),
    "UTF-16, the other order": (RIGHT.encode("utf-16-le"), OTHER),
    "UTF-32": (RIGHT.encode("utf-32"), OTHER),
    "a byte order mark": (RIGHT.encode("utf-8-sig"), OTHER),
    "Avro with the id of a schema": (b"\x00\x00\x00\x00\x07\x04t1", OTHER),
    "Latin-1": ('{"tx_id": "é"}'.encode("latin-1"), "expected JSON: it is not UTF-8"),
    "white space": (b" " * MANY, "expected JSON: Input data was truncated"),
    "garbage": (random.Random(7).randbytes(MANY), "expected JSON"),
    "deep lists": (b"[" * MANY, DEEP),
    "deep objects": (b'{"a":' * (MANY // 5), DEEP),
    "deep and sound": (b"[" * MANY + b"]" * MANY, DEEP),
    "a deep id": (b'{"tx_id": ' + b"[" * MANY + b"]" * MANY + b"}", DEEP),
    "a long number": (b'{"tx_id": ' + b"1" * MANY + b"}", "expected JSON: Integer value out of range"),
    "text": (b'"' + b"a" * MANY + b'"', "expected a JSON object"),
    "no fields": (b"{}", "missing"),
    "a repeated name": (b'{"tx_id": 1, "tx_id": 2}', "tx_id: given twice"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_message_is_told_in_a_line(kind: str) -> None:
    raw, expected = BROKEN[kind]
    for read in (CODEC.decode_transaction, CODEC.decode_label):
        with pytest.raises(RowError) as caught:
            read(raw)
        assert expected in str(caught.value)
        assert len(str(caught.value)) < 500
        assert not str(caught.value).startswith(":")


def test_a_time_too_far_ahead_is_refused() -> None:
    with pytest.raises(RowError, match="time: expected a time at most 86400 s ahead"):
        CODEC.decode_transaction(json.dumps(row(1, time="2190-01-01T00:00:00Z")).encode())


def test_a_decision_is_what_a_request_is_answered() -> None:
    decided = decision(transaction(1), 5, action=Action.review)
    assert CODEC.encode_decision(decided) == encode(prediction(decided))


def test_an_alert_has_the_transaction_in_the_columns_names() -> None:
    decided = decision(transaction(1, customer=None), 5, action=Action.decline)
    alert = json.loads(CODEC.encode_alert(decided))
    assert alert["decision"]["action"] == "decline"
    expected = {name: value for name, value in row(1).items() if name != "cust_no"}
    assert alert["transaction"] == expected
