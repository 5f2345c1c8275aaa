"""Requests' bytes to transactions: the meaning of ``normalise``, at a fraction of its cost.

A body of the usual form (:mod:`fraudml.events.quick_form`) goes straight into structs that msgspec builds from the
schema. Whatever that does not settle (an unknown field, a repeated name, an unusual or a wrong value) goes the slow
way, strict JSON and the normaliser, which is the meaning and words the errors. A property test holds the two together.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from typing import Any

from fraudml.errors import DataError, FieldProblem, RowError
from fraudml.events.cards import CardHasher
from fraudml.events.normalise import UNKNOWN_TOLD, Normaliser
from fraudml.events.quick_form import ITEMS, QuickForm, Values, quick_form
from fraudml.events.schema import Schema
from fraudml.events.strict_json import NOT_AN_OBJECT, decode_object
from fraudml.events.transaction import Transaction

LONGEST_TEXT = 1_000  # characters of an id, an entity's key or a category

Outcome = Transaction | RowError


class TooManyItemsError(DataError):
    """A batch has more transactions than one request may; ``count`` of them, where ``most`` are allowed."""

    def __init__(self, count: int, most: int) -> None:
        self.count = count
        self.most = most
        super().__init__(f"a batch may have {most} transactions, not {count}; send several")


class TransactionDecoder:
    """Reads transactions of requests: one, a batch, or one that is a mapping already.

    Beyond what a file may hold, two things are refused because each would stay in online state: a time more than
    ``max_ahead_s`` seconds ahead of this machine's clock (state's own clock would follow it, and forget what is
    younger), and texts of more than ``longest_text`` characters. Safe to share between threads.

    >>> from fraudml.events.schema import AmountColumn, TimeColumn
    >>> schema = Schema(TimeColumn("time"), "id", {"customer": "cust"}, AmountColumn("amount"))
    >>> decoder = TransactionDecoder(schema, CardHasher(b"key"), max_ahead_s=86_400)
    >>> decoder.decode(b'{"id": "t1", "time": "2024-05-01T00:00:00Z", "cust": 7, "amount": 12.5}')
    Transaction(transaction_id='t1', event_time_us=1714521600000000, entities=('7',), amount_minor=1250, attributes=())
    """

    def __init__(
        self, schema: Schema, hasher: CardHasher, *, max_ahead_s: float, longest_text: int = LONGEST_TEXT
    ) -> None:
        self._schema = schema
        self._slow = Normaliser(schema, hasher)
        self._max_ahead_s = max_ahead_s
        self._max_ahead_us = max_ahead_s * 1_000_000
        self._longest_text = longest_text
        attributes = map(schema.attribute_column, schema.attributes)
        self._texts = (schema.id_column, *schema.entities.values(), *attributes)
        self._quick = quick_form(schema, hasher, longest_text)

    def decode(self, raw: bytes) -> Transaction:
        """The transaction of a JSON object; raises RowError with every wrong field."""
        quick = self._quick
        if quick is not None:
            try:
                return quick.transaction(quick.decode(raw), self._latest_us())
            except ValueError:
                pass  # the slow way says what is wrong
        return self._normalise_slowly(decode_object(raw))

    def decode_batch(self, raw: bytes, *, most: int | None = None) -> list[Outcome]:
        """What each item of ``{"transactions": [...]}`` is, in order; one wrong item does not stop the others.

        Raises RowError when the document itself is wrong, and TooManyItemsError, before any item is normalised,
        when there are more than ``most``.
        """
        quick = self._quick
        if quick is not None:
            try:
                rows = quick.decode_items(raw)
            except ValueError:  # an item of unusual form, or a wrong document
                pass
            else:
                if most is None or len(rows) <= most:
                    return self._outcomes(quick, rows)
        return [self._outcome(item) for item in _items(raw, most)]

    def normalise(self, row: Mapping[str, Any]) -> Transaction:
        """The transaction of an object that was decoded already; raises RowError with every wrong field."""
        quick = self._quick
        if quick is not None:
            try:
                return quick.transaction(quick.convert(row), self._latest_us())
            except ValueError:
                pass
        return self._normalise_slowly(row)

    def _normalise_slowly(self, row: Mapping[str, Any]) -> Transaction:
        """The definition of what this class does with one object; everything else is a short cut to it."""
        event = self._slow(row)
        problems = []
        if event.event_time_us > self._latest_us():
            expected = f"expected a time at most {self._max_ahead_s:g} s ahead of this server's clock"
            problems.append(FieldProblem(self._schema.event_time.column, expected))
        values = (event.transaction_id, *event.entities, *event.attributes)
        for column, value in zip(self._texts, values, strict=True):
            if isinstance(value, str) and len(value) > self._longest_text:
                problems.append(FieldProblem(column, f"expected at most {self._longest_text} characters"))
        if problems:
            raise RowError(problems)
        return event

    def _latest_us(self) -> float:
        return time.time_ns() // 1_000 + self._max_ahead_us

    def _outcomes(self, quick: QuickForm, rows: list[Values]) -> list[Outcome]:
        latest_us = self._latest_us()
        outcomes: list[Outcome] = []
        for values in rows:
            try:
                outcomes.append(quick.transaction(values, latest_us))
            except ValueError:
                outcomes.append(self._outcome(quick.object_of(values)))
        return outcomes

    def _outcome(self, item: Any) -> Outcome:
        try:
            if not isinstance(item, dict):
                raise RowError([FieldProblem("", NOT_AN_OBJECT)])
            return self.normalise(item)
        except RowError as error:
            return error


def _items(raw: bytes, most: int | None) -> list[Any]:
    document = decode_object(raw)
    items = document.get(ITEMS)
    problems = [
        FieldProblem(name, f"unknown field; a batch has only '{ITEMS}'")
        for name in heapq.nsmallest(UNKNOWN_TOLD, document.keys() - {ITEMS})
    ]
    if not isinstance(items, list):
        problems.append(FieldProblem(ITEMS, "expected a list of transactions"))
    if problems or not isinstance(items, list):
        raise RowError(problems)
    if most is not None and len(items) > most:
        raise TooManyItemsError(len(items), most)
    return items
