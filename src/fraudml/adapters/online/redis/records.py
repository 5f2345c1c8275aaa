"""From transactions, label reports and Arrow batches to the fixed-width records of lanes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.adapters.online._plan import LastPlan, Plan
from fraudml.adapters.online._rows import Row
from fraudml.adapters.online.redis.lanes import ID_BYTES, MISSING, SORTS, Field, Lane
from fraudml.events.label import Label
from fraudml.events.schema import IS_FRAUD, KNOWN_AT, TRANSACTION_ID, Schema, normal_column

Values = NDArray[Any]
REMEMBERED = 100_000  # texts whose hashes are kept


class Vocabulary:
    """A category's values as numbers in the order of text.

    Known value number i in sorted order is ``2 i + 2``, a value that is not known lies in the gap before it,
    ``2 i + 1``, and 0 is missing. ``codes`` gives, for each of these numbers, what a ``last`` feature reads.

    >>> words = Vocabulary(("FR", "DE"))
    >>> [words.rank(text) for text in (None, "AT", "DE", "ES", "FR", "US")], words.codes[[0, 1, 2, 4]].tolist()
    ([0, 1, 2, 3, 4, 5], [nan, 0.0, 2.0, 1.0])
    """

    def __init__(self, values: Sequence[str]) -> None:
        self._sorted = sorted(values)
        self._known = {value: 2 * i + 2 for i, value in enumerate(self._sorted)}
        self.codes = np.zeros(2 * len(values) + 2)
        self.codes[0] = np.nan
        for code, value in enumerate(values, 1):
            self.codes[self._known[value]] = code

    def rank(self, text: str | None) -> int:
        """The number of a value."""
        if text is None:
            return 0
        known = self._known.get(text)
        return known if known is not None else 2 * bisect_left(self._sorted, text) + 1


class Records:
    """Encodes what the lanes of a FeatureSet keep."""

    def __init__(self, schema: Schema, plan: Plan, lanes: Iterable[Lane]) -> None:
        self._plan = plan
        fields = {field.name: field for lane in lanes for field in lane.fields}
        self._fields = list(fields.values())
        self.vocabularies = {
            field.at: Vocabulary(schema.attributes[plan.row[field.at].name].vocabulary)
            for field in self._fields
            if field.sort == "rank"
        }
        self._hashes: dict[str, int] = {}

    def of_rows(self, rows: Sequence[Row]) -> dict[str, Values]:
        """The fields of transactions, from the values that state keeps."""
        return {field.name: self._encode(field, [row[field.at] for row in rows]) for field in self._fields}

    def of_history(self, events: pa.RecordBatch) -> dict[str, Values]:
        """The fields of a batch of history."""
        return {field.name: self._of_column(field, events) for field in self._fields}

    def _encode(self, field: Field, values: list[Any]) -> Values:
        if field.sort == "integer" and None in values:
            values = [MISSING if value is None else value for value in values]
        elif field.sort not in ("integer", "real"):
            values = list(map(self._of_text(field), values))
        return np.array(values, dtype=SORTS[field.sort])  # a missing float becomes NaN

    def _of_column(self, field: Field, events: pa.RecordBatch) -> Values:
        column = events.column(normal_column(self._plan.row[field.at].name))
        if field.sort == "integer":
            integers: Values = pc.fill_null(column.cast(pa.int64()), MISSING).to_numpy(zero_copy_only=False)
            return integers
        if field.sort == "real":
            floats: Values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return floats
        encoded = column.dictionary_encode()
        texts = [*encoded.dictionary.to_pylist(), None]
        known = np.array(list(map(self._of_text(field), texts)), dtype=SORTS[field.sort])
        encoding: Values = known[pc.fill_null(encoded.indices, len(texts) - 1).to_numpy(zero_copy_only=False)]
        return encoding

    def _of_text(self, field: Field) -> Callable[[str | None], int]:
        if field.sort == "rank":
            return self.vocabularies[field.at].rank
        return {"present": _present, "hash": self._hash, "prefix": _prefix}[field.sort]

    def _hash(self, text: str | None) -> int:
        if text is None:
            return 0
        found = self._hashes.get(text)
        if found is None:
            if len(self._hashes) >= REMEMBERED:
                self._hashes.clear()
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            found = self._hashes[text] = int.from_bytes(digest, "little") or 1
        return found


def ids_of(names: Iterable[str]) -> Values:
    """What stands for transaction ids in records: hashes of 48 bits, which only have to differ at the same time."""
    joined = b"".join([blake2b(name.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest() for name in names])
    return np.frombuffer(joined, f"V{ID_BYTES}")


def pack(lane: Lane, ids: Values, times: Values, fields: dict[str, Values]) -> Values:
    """Records of a lane; ``fields`` by name, and for a lane of labels ``fraud``."""
    records = np.empty(len(times), lane.record)
    records["id"] = ids
    records["time"] = times
    for name in (field.name for field in lane.fields):
        records[name] = fields[name]
    if lane.labels:
        records["fraud"] = fields["fraud"]
    return records


def of_labels(labels: Sequence[Label]) -> tuple[Values, Values, dict[str, Values]]:
    """Ids, times and fields of reports."""
    times = np.array([label.known_at_us for label in labels], dtype=np.int64)
    fraud = np.array([label.is_fraud for label in labels], dtype=np.uint8)
    return ids_of([label.transaction_id for label in labels]), times, {"fraud": fraud}


def reported(events: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of history whose label is known."""
    return events.filter(pc.and_(events.column(IS_FRAUD).is_valid(), events.column(KNOWN_AT).is_valid()))


def history_ids(events: pa.RecordBatch) -> Values:
    """Ids of a batch of history."""
    return ids_of(events.column(TRANSACTION_ID).to_pylist())


def last_order(last: LastPlan, plan: Plan) -> list[tuple[str, bool]]:
    """The fields by which events at one time are compared, the first first; whether each is a float."""
    found = []
    for at in last.at:
        if str in plan.row[at].allowed:
            found.append((f"r{at}", False))
            if at != last.at[-1]:
                found.append((f"s{at}", False))
        else:
            found.append((f"x{at}", float in plan.row[at].allowed))
    return found


def _present(text: str | None) -> int:
    return int(text is not None)


def _prefix(text: str | None) -> int:
    """The first 8 bytes: they order text like all of it unless it differs only further on."""
    return 0 if text is None else int.from_bytes(text.encode("utf-8", "surrogatepass")[:8].ljust(8, b"\0"), "big")
