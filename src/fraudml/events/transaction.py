"""The event that is scored, in its one normal form."""

from __future__ import annotations

import msgspec


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """One transaction after validation; values are in the schema's order, missing ones are ``None``.

    ``entities`` are the keys that features aggregate over (text); ``attributes`` hold ``float`` for numbers,
    ``int`` for integers, booleans (0/1) and times (microseconds UTC), ``str`` for categories. NaN never occurs.

    >>> Transaction("t1", 1_500_000_000_000_000, ("alice",), 1250, ("DE", 3.5)).amount_minor
    1250
    """

    transaction_id: str
    event_time_us: int
    entities: tuple[str | None, ...]
    amount_minor: int | None
    attributes: tuple[str | int | float | None, ...]
