"""One pass over a history, whether of files or of a database: what is sound, what repeats, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from fraudml.adapters.source import tables
from fraudml.adapters.source.batches import Batches
from fraudml.adapters.source.duplicates import SeenIds
from fraudml.adapters.source.rejects import RejectFile
from fraudml.errors import TooManyRejects
from fraudml.events.cards import CardHasher
from fraudml.events.schema import Schema
from fraudml.events.source import Rejects

BATCH_ROWS = 100_000
HOPELESS_ROWS = 50_000  # when more than half of so many rows are refused, the schema is wrong: stop at once
DUPLICATE = "duplicate id"
_STOPPED = " so far; nearly all are refused, so the reading stopped"


class Reading:
    """Counts and judges the rows of one pass. ``names``: of what is read; ``rows``: how many were read so far.

    When the limit is exceeded, :meth:`end` raises ``TooManyRejects``, and :meth:`summary` from then on.
    """

    def __init__(
        self, names: Sequence[str], schema: Schema, hasher: CardHasher, max_share: float, rejects_path: Path
    ) -> None:
        self._names, self._max_share, self._rejects_path = names, max_share, rejects_path
        self._seen = SeenIds() if schema.transaction_id is not None else None
        self._failure: TooManyRejects | None = None
        self.rejects = RejectFile(rejects_path, hasher)
        self.rows = 0

    def take(self, plan: Batches, raw: pa.RecordBatch, first: int) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Of a batch of a plan's query the sound rows in normal form, and why others are refused, by their position.

        ``first``: the number (from 0) of the batch's first row in its table.
        """
        good, problems = plan.check(raw)
        if self._seen is not None:
            again = self._seen.repeated(plan.id_hashes(raw, good))
            if again.any():
                at = np.flatnonzero(good)[again]
                problems.update((int(row), DUPLICATE) for row in at)
                good[at] = False
        self.rows += raw.num_rows
        return plan.finish(raw, first, good), problems

    def is_hopeless(self, refused: int) -> bool:
        """True when so many rows are refused that reading on is no use."""
        most = max(self._max_share, 0.5) * self.rows
        return self.rows >= HOPELESS_ROWS and self._max_share < 1 and refused > most

    def end(self, *, stopped: bool = False) -> None:
        """Raise ``TooManyRejects`` if more rows were refused than are accepted; ``stopped``: :meth:`is_hopeless`."""
        if stopped or self.rejects.count > self._max_share * self.rows:
            self._failure = self._too_many(_STOPPED if stopped else "")
            raise self._failure

    def summary(self) -> Rejects:
        """What was refused."""
        if self._failure is not None:
            raise self._failure
        return self.rejects.summary(self.rows)

    def _too_many(self, note: str) -> TooManyRejects:
        top = "; ".join(f"{reason} ({count:,})" for reason, count in self.rejects.reasons.most_common(3))
        more = f" and {len(self._names) - 1} more" if len(self._names) > 1 else ""
        return TooManyRejects(
            f"{self._names[0]}{more}: {self.rejects.count:,} of {self.rows:,} rows are broken{note}; at most "
            f"{self._max_share:.1%} are accepted. Most frequent: {top}. See {self._rejects_path}; correct the schema "
            "or the data, or raise FRAUDML_MAX_REJECT_SHARE"
        )


def connect(threads: int, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """A connection on which the plans' queries mean what they should."""
    connection = tables.connect(threads, memory_limit)
    connection.execute("SET TimeZone = 'UTC'")  # offsets are applied, naive times are left alone
    # Lists of words would become hash joins, which are slower and do not keep the order of the rows.
    connection.execute("SET disabled_optimizers = 'in_clause'")
    return connection
