"""Port: a warehouse that decisions and label reports are exported to. Adapters live in ``adapters/warehouse``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.decisions.log import AUDIT_LABELS, audit_schema
from fraudml.events.schema import Schema

DECISIONS = "decisions"
LABELS = "labels"
VECTOR = "vector"
DAY = "day"  # of folders
_encode = msgspec.json.Encoder().encode


class Warehouse(Protocol):
    """Tables of exported rows, each with a *watermark*: the greatest arrival number that it has taken.

    Tables are named :data:`DECISIONS` and :data:`LABELS`; what they are called there is the adapter's matter. Raises
    ``WarehouseError`` when the warehouse fails. Not safe for use by several threads at once.
    """

    def prepare(self, tables: Mapping[str, pa.Schema]) -> None:
        """Make the tables that are missing, and the columns that a table lacks; change nothing else. Any number of
        times. Columns are text, 64-bit integers, doubles and booleans; ``arrival`` and ``event_time_us`` are among
        them.
        """
        ...

    def watermark(self, table: str) -> int:
        """The table's watermark; 0 before the first rows."""
        ...

    def arrivals(self, table: str, after: int) -> Iterator[pa.Array]:
        """The arrival numbers in the table that are greater than ``after``: int64, in no order."""
        ...

    def write(self, table: str, rows: pa.RecordBatch, *, before: int, watermark: int) -> None:
        """Add rows and move the watermark from ``before`` to ``watermark``, both or neither, durable on return.

        Rows whose arrival number the table has are left out. Raises ``ConflictError``, and nothing is written, when the
        watermark is not ``before``: another export has run meanwhile. After a ``WarehouseError`` it may be that all was
        written: :meth:`watermark` tells.
        """
        ...

    def tidy(self, table: str) -> bool:
        """Put together some of what many exports have left in small pieces; whether anything was. The rows stay.

        Raises what :meth:`write` raises, and no row is lost or doubled then either.
        """
        ...

    def close(self) -> None:
        """End the connection and remove what is temporary."""
        ...


def exported_schemas(schema: Schema) -> dict[str, pa.Schema]:
    """The columns of both tables: those of ``decisions.log.audit_schema`` and ``AUDIT_LABELS`` under plain names.

    ``vector`` is text, a JSON array with null for a missing value: not every warehouse keeps NaN in an array.
    """
    columns = audit_schema(schema)
    names = plain_names(columns.names)
    fields = [
        pa.field(name, pa.string() if field.name == VECTOR else field.type)
        for name, field in zip(names, columns, strict=True)
    ]
    return {DECISIONS: pa.schema(fields), LABELS: AUDIT_LABELS}


def exported_decisions(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of ``audit_schema`` as rows of the table of decisions."""
    columns = [
        _as_json(batch.column(i)) if name == VECTOR else batch.column(i) for i, name in enumerate(batch.schema.names)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def plain_names(names: Sequence[str]) -> list[str]:
    """Names of lower-case letters, digits and ``_``, which every warehouse takes without quotes; all different.

    >>> plain_names(["Customer", "ip country", "ip-country", "3ds"])
    ['customer', 'ip_country', 'ip_country_2', '_3ds']
    """
    made: list[str] = []
    for name in names:
        plain = re.sub(r"[^a-z0-9_]", "_", name.lower())[:60]
        plain = f"_{plain}" if plain[:1].isdigit() or not plain else plain
        found, number = plain, 1
        while found in made:
            number += 1
            found = f"{plain}_{number}"
        made.append(found)
    return made


def names_beside_day(names: Sequence[str]) -> list[str]:
    """The names of columns in files that lie in a folder for each day: readers make a column of the folder's name.

    >>> names_beside_day(["arrival", "day"])
    ['arrival', 'day_2']
    """
    return plain_names([DAY, *names])[1:]


def _as_json(vectors: pa.ListArray) -> pa.Array:
    """Each vector as a JSON array."""
    flat = vectors.flatten()
    values = pc.if_else(pc.is_nan(flat), None, flat).to_pylist()
    ends = np.cumsum(vectors.value_lengths().to_numpy(zero_copy_only=False)).tolist()
    starts = [0, *ends[:-1]]
    return pa.array([_encode(values[a:b]).decode() for a, b in zip(starts, ends, strict=True)], pa.string())
