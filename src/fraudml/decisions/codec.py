"""Port: how transactions, labels, decisions and alerts are written in the messages of a stream; and JSON."""

from __future__ import annotations

from typing import Protocol

from fraudml.decisions.answer import encode, prediction, transaction_fields
from fraudml.decisions.record import Decision
from fraudml.errors import FieldProblem, RowError
from fraudml.events.cards import CardHasher
from fraudml.events.decoder import TransactionDecoder
from fraudml.events.fields import FieldReader
from fraudml.events.label import Label
from fraudml.events.schema import Schema
from fraudml.events.strict_json import decode_object
from fraudml.events.transaction import Transaction

NOTHING = "expected a message that holds something; this one is empty (a tombstone)"


class Codec(Protocol):
    """Reads and writes the values of messages. Safe to share between threads.

    Whatever bytes a message holds, reading gives what is in it or raises RowError, which says every wrong field;
    ``None`` and no bytes at all are a tombstone, which holds nothing. The same decision always gives the same bytes.
    """

    def decode_transaction(self, value: bytes | None) -> Transaction:
        """The transaction of a message; raises RowError."""
        ...

    def decode_label(self, value: bytes | None) -> Label:
        """The label of a message, without entities; raises RowError. It is known now when the message has no time."""
        ...

    def encode_decision(self, decision: Decision) -> bytes:
        """A message that tells a decision."""
        ...

    def encode_alert(self, decision: Decision) -> bytes:
        """A message that tells a decision with its transaction."""
        ...


class JsonCodec:
    """JSON, as requests and answers have it; the schemas are in :mod:`fraudml.decisions.message_schema`.

    >>> from fraudml.events.schema import TimeColumn
    >>> codec = JsonCodec(Schema(TimeColumn("time"), "id"), CardHasher(b"key"), max_ahead_s=86_400)
    >>> codec.decode_transaction(b'{"id": "t1", "time": "2024-05-01T00:00:00Z"}').event_time_us
    1714521600000000
    >>> codec.decode_label(b'{"transaction_id": "t1", "is_fraud": true}').is_fraud
    True
    """

    def __init__(self, schema: Schema, hasher: CardHasher, *, max_ahead_s: float) -> None:
        self._schema = schema
        self._decoder = TransactionDecoder(schema, hasher, max_ahead_s=max_ahead_s)
        self._fields = FieldReader(schema, hasher)

    def decode_transaction(self, value: bytes | None) -> Transaction:
        """The transaction of a JSON object with the columns' names."""
        return self._decoder.decode(_held(value))

    def decode_label(self, value: bytes | None) -> Label:
        """The label of a JSON object with ``transaction_id``, ``is_fraud`` and perhaps ``known_at``."""
        return self._fields.label(decode_object(_held(value)))

    def encode_decision(self, decision: Decision) -> bytes:
        """The answer that a request gets for it."""
        return encode(prediction(decision))

    def encode_alert(self, decision: Decision) -> bytes:
        """An object with ``decision`` and ``transaction``."""
        transaction = transaction_fields(self._schema, decision.transaction)
        return encode({"decision": prediction(decision), "transaction": transaction})


def _held(value: bytes | None) -> bytes:
    if not value:
        raise RowError([FieldProblem("", NOTHING)])
    return value
