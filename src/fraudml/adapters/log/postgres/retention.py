"""Removes the oldest decisions, by the time of transactions: from PostgreSQL alone, as TimescaleDB has a job for it.

An id goes together with its transaction, its decision with its shadow scores, and its label reports. A few thousand at
a time, each batch in a commit of its own: decisions go on meanwhile, and what was done stays done when it is ended.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from fraudml.adapters.log.postgres.long_work import long_work

AT_ONCE = 5_000
DAY_US = 86_400_000_000
_OLD = (
    "WITH old AS (SELECT transaction_id, event_time_us, arrival FROM transaction_ids WHERE event_time_us < %(before)s "
    "LIMIT %(at_once)s)"
)
_OF = "USING old WHERE {0}.transaction_id = old.transaction_id"
_AT = f"{_OF} AND {{0}}.event_time_us = old.event_time_us"
_SHADOWS = "USING old WHERE {0}.arrival = old.arrival"
_ALL = {"labels": _OF, "shadow_scores": _SHADOWS, "decisions": _AT, "transactions": _AT}
REMOVE = (
    _OLD  # noqa: S608 - our own names
    + "".join(f", {name}_gone AS (DELETE FROM {name} {of.format(name)})" for name, of in _ALL.items())  # noqa: S608
    + f" DELETE FROM transaction_ids {_OF.format('transaction_ids')}"  # noqa: S608 - our own names
)

# Links stay, without what they say about each row, when all of their rows are gone: the rest of a chain hangs on them.
FORGET = "UPDATE chain SET members = NULL WHERE until_us < %(before)s AND members IS NOT NULL AND kind <> 'start'"


def limit(retain_us: int) -> int:
    """The time before which nothing is kept: whole days, as the pieces of a hypertable are."""
    return (time.time_ns() // 1_000 - retain_us) // DAY_US * DAY_US


def remove(engine: sa.Engine, before_us: int) -> int:
    """Remove what is older; how many decisions. The role must own the tables, or be granted DELETE on them."""
    count = 0
    with long_work(engine, "removing old decisions") as driver:
        while taken := driver.execute(REMOVE, {"before": before_us, "at_once": AT_ONCE}).rowcount:
            count += taken
        driver.execute(FORGET, {"before": before_us})
    return count
