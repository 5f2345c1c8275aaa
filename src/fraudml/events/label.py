"""Whether a transaction was fraud, and when that became known."""

from __future__ import annotations

import msgspec


class Label(msgspec.Struct, frozen=True, gc=False):
    """One report about one transaction.

    A transaction may be reported more than once (a dispute is reversed): every report whose verdict differs
    from the one before is an event of the label stream at its own ``known_at_us``; the truth at a time is the
    latest report known by then. ``entities`` are those of the transaction, in the schema's order.
    """

    transaction_id: str
    is_fraud: bool
    known_at_us: int
    entities: tuple[str | None, ...] = ()
