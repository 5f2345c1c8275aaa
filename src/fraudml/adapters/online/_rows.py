"""From transactions and label reports to the rows that tables keep; refuses what would break state halfway."""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fraudml.adapters.online._plan import Column
from fraudml.errors import OnlineStoreError
from fraudml.events.label import Label
from fraudml.events.schema import Schema
from fraudml.events.transaction import Transaction

BOUND = 2**62  # times and integers stay within; floats within +-BOUND_REAL, which keeps sums finite
BOUND_REAL = 1e100

Row = tuple[Any, ...]


class Rows:
    """Reads the values that state keeps; everything is checked before anything is applied."""

    def __init__(self, schema: Schema, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._entities = len(schema.entity_names)
        self._attributes = len(schema.attribute_names)
        self._only_amount = [column.source for column in columns] == ["amount"]

    def of(self, transactions: Sequence[Transaction]) -> list[Row]:
        """One row per transaction; raises OnlineStoreError for values that no normalised transaction has."""
        rows: list[Row] = []
        attributes = self._attributes
        for event in transactions:
            self._check(event.transaction_id, event.event_time_us, event.entities)
            if len(event.attributes) != attributes:
                raise OnlineStoreError(f"transaction {event.transaction_id!r} does not have the schema's attributes")
            amount = event.amount_minor
            if self._only_amount and type(amount) is int and -BOUND < amount < BOUND:
                rows.append((amount,))
            else:
                rows.append(tuple([self._value(event, column) for column in self._columns]))
        return rows

    def of_labels(self, labels: Sequence[Label]) -> list[Row]:
        """One row per report."""
        for label in labels:
            self._check(label.transaction_id, label.known_at_us, label.entities)
        return [(int(label.is_fraud),) for label in labels]

    def _check(self, name: str, time_us: int, entities: Sequence[str | None]) -> None:
        if type(time_us) is not int or not -BOUND < time_us < BOUND:
            raise OnlineStoreError(f"transaction {name!r}: the time is not in microseconds of the calendar")
        if len(entities) != self._entities:
            raise OnlineStoreError(f"transaction {name!r} does not have the schema's entities")
        for key in entities:
            if key is not None and type(key) is not str:
                raise OnlineStoreError(f"transaction {name!r}: an entity key is not text")

    def _value(self, event: Transaction, column: Column) -> Any:
        source = column.source
        if source == "amount":
            value: Any = event.amount_minor
        else:
            value = (event.attributes if source == "attribute" else event.entities)[column.place]
        if value is None:
            if column.required:
                raise OnlineStoreError(f"transaction {event.transaction_id!r} has no {column.name}")
            return None
        kind = type(value)
        if kind not in column.allowed:
            raise OnlineStoreError(f"transaction {event.transaction_id!r}: {column.name} is not of the schema's type")
        if kind is str:
            return intern(value)
        bound = BOUND_REAL if kind is float else BOUND
        if not -bound < value < bound:
            raise OnlineStoreError(f"transaction {event.transaction_id!r}: {column.name} is out of range")
        return value


def check_history(batch: pa.RecordBatch, names: Sequence[str], required: Sequence[str]) -> None:
    """Raise OnlineStoreError when a batch of history lacks columns or required values, or has any out of range."""
    missing = [name for name in names if name not in batch.schema.names]
    if missing:
        raise OnlineStoreError(f"history lacks the columns {', '.join(missing)}; load the normal form")
    for name in required:
        if batch.column(name).null_count:
            raise OnlineStoreError(f"history has rows without {name}; load the normal form")
    for name in names:
        column = batch.column(name)
        if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
            raise OnlineStoreError(f"history has a value of {name} that is no finite number; use null for missing")
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            bound = BOUND_REAL if pa.types.is_floating(column.type) else BOUND
            least, most = pc.min_max(column).as_py().values()
            if least is not None and not -bound < least <= most < bound:
                raise OnlineStoreError(f"history has a value of {name} that is out of range")
