"""One id, one transaction: what is said when an id comes again with other content, or was never seen."""

from __future__ import annotations

from fraudml.errors import ConflictError, NotFoundError
from fraudml.events.schema import AMOUNT_INPUT, Schema
from fraudml.events.transaction import Transaction


def difference(schema: Schema, first: Transaction, second: Transaction) -> str | None:
    """The first field (by its request name) in which two transactions differ; ``None`` when they are equal."""
    if first == second:
        return None
    if first.event_time_us != second.event_time_us:
        return schema.event_time.column
    if first.amount_minor != second.amount_minor:
        return schema.amount.column if schema.amount else AMOUNT_INPUT
    columns = [*schema.entities.values(), *map(schema.attribute_column, schema.attributes)]
    before = (*first.entities, *first.attributes)
    for column, a, b in zip(columns, before, (*second.entities, *second.attributes), strict=True):
        if a != b:
            return column
    return schema.id_column


def conflict(transaction_id: str, field: str) -> ConflictError:
    """The error for an id that comes again with other content; it names the field, not the values."""
    return ConflictError(
        f"transaction {transaction_id!r} was decided before with another {field!r}: "
        "send the same content to get the same answer, or a new id for a new transaction"
    )


def unknown(transaction_id: str) -> NotFoundError:
    """The error for an id that was never scored."""
    return NotFoundError(f"transaction {transaction_id!r} has not been scored here")
