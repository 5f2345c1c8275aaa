"""Fields of requests that are not transactions: identifiers, verdicts and times."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Any

from fraudml.errors import FieldProblem, RowError
from fraudml.events.cards import CardHasher
from fraudml.events.label import Label
from fraudml.events.normalise import UNKNOWN_TOLD, read_boolean, read_text, time_reader
from fraudml.events.schema import TRANSACTION_ID, Schema, TimeColumn

CLOCK_SKEW_US = 60_000_000  # a reporter's clock may be ahead of ours by this
_read_time = time_reader(TimeColumn("known_at"))


class FieldReader:
    """Reads identifiers as the schema's normaliser does: a whole number is its digits, a card number its token."""

    def __init__(self, schema: Schema, hasher: CardHasher) -> None:
        self._hasher = hasher
        self.id_names = (schema.id_column, TRANSACTION_ID)

    def identifier(self, value: Any, path: str = TRANSACTION_ID) -> str:
        """A transaction's id; raises RowError."""
        problems: list[FieldProblem] = []
        identifier = _need(problems, path, value, lambda v: read_text(v, self._hasher))
        if problems:
            raise RowError(problems)
        return str(identifier)

    def label(self, item: Any) -> Label:
        """A label from ``{"transaction_id", "is_fraud", "known_at"}``; ``known_at`` is now when absent.

        Raises RowError with every wrong field. A verdict cannot be known in the future.
        """
        if not isinstance(item, dict):
            raise RowError([FieldProblem("", "expected an object with transaction_id and is_fraud")])
        problems: list[FieldProblem] = []
        name = next((name for name in self.id_names if name in item), TRANSACTION_ID)
        identifier = _need(problems, name, item.get(name), lambda v: read_text(v, self._hasher))
        is_fraud = _need(problems, "is_fraud", item.get("is_fraud"), read_boolean)
        now_us = time.time_ns() // 1_000
        known_at_us = now_us
        if item.get("known_at") is not None:
            known = _need(problems, "known_at", item["known_at"], _read_time)
            known_at_us = now_us if known is None else known
        if known_at_us > now_us + CLOCK_SKEW_US:
            problems.append(FieldProblem("known_at", "expected a time that is not in the future"))
        for extra in heapq.nsmallest(UNKNOWN_TOLD, item.keys() - {name, "is_fraud", "known_at"}):
            problems.append(FieldProblem(extra, "unknown field; a label has transaction_id, is_fraud, known_at"))
        if problems:
            raise RowError(problems)
        return Label(str(identifier), bool(is_fraud), known_at_us)


def _need(problems: list[FieldProblem], path: str, value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        found = read(value)
    except ValueError as wrong:  # its text is what was expected
        problems.append(FieldProblem(path, str(wrong)))
        return None
    if found is None:
        problems.append(FieldProblem(path, "missing"))
    return found
