"""Port: where history comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa

from fraudml.events.schema import AttributeType, Schema

# Progress of a long step: (done, total or None when unknown), in rows unless stated.
Progress = Callable[[int, int | None], None]


class Rejects(msgspec.Struct, frozen=True):
    """What was refused while reading: ``count`` of ``rows``, by reason, written to ``path`` when there were any."""

    rows: int
    count: int
    reasons: dict[str, int]
    path: Path | None


def arrow_schema(schema: Schema) -> pa.Schema:
    """The normal form as an Arrow schema: columns of :meth:`Schema.normal_columns`, then ``is_fraud`` (bool,
    null when unlabelled) and ``known_at_us`` (int64, null when unlabelled)."""
    types = {
        AttributeType.number: pa.float64(),
        AttributeType.integer: pa.int64(),
        AttributeType.boolean: pa.int64(),
        AttributeType.category: pa.string(),
        AttributeType.time: pa.int64(),
    }
    return pa.schema(
        [
            ("transaction_id", pa.string()),
            ("event_time_us", pa.int64()),
            *((name, pa.string()) for name in schema.entities),
            ("amount_minor", pa.int64()),
            *((name, types[attribute.type]) for name, attribute in schema.attributes.items()),
            ("is_fraud", pa.bool_()),
            ("known_at_us", pa.int64()),
        ]
    )


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The batches in tables of about so many rows."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= rows:
            yield pa.Table.from_batches(held)
            held = []
    if any(map(len, held)):
        yield pa.Table.from_batches(held)


class TransactionSource(Protocol):
    """Reads raw history into the normal form.

    Broken rows never stop the reading and are never dropped silently: each goes to the rejects file with its line
    number and reason. Raises ``DataError`` when nothing can be read at all (no file, a column of the schema is
    missing) and ``TooManyRejects`` when the share of broken rows exceeds the limit.
    """

    def read(self, progress: Progress | None = None) -> pa.RecordBatchReader:
        """Batches of :func:`arrow_schema`, streamed; in the files' order."""
        ...

    def rejects(self) -> Rejects:
        """The rejects of the last :meth:`read`; complete once its reader is exhausted."""
        ...
