"""The demo's own directory, and the cut of its simulated transactions into the past and what is still to come."""

from __future__ import annotations

import csv
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from fraudml.errors import ConfigError
from fraudml.events.schema import AttributeType, Schema

# A database whose one use is its lock: the system releases it however the demo ends, on every platform.
MARKER = ".fraudml-demo"
TIME, FRAUD, KNOWN_AT, PATTERN = "event_time", "is_fraud", "reported_at", "fraud_pattern"
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


@contextmanager
def fresh(directory: Path) -> Iterator[Path]:
    """An empty directory for one demo; what an earlier demo left in it is removed.

    Raises ConfigError when it holds anything that no demo made, or while another demo runs in it.
    """
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConfigError(f"{directory} is not a directory; name another one with --keep")
    marker = directory / MARKER
    if directory.exists() and not marker.is_file() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and no demo made it; name another one with --keep")
    directory.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(marker, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            raise ConfigError(f"another demo is running in {directory}; name another directory with --keep") from None
        except sqlite3.DatabaseError:
            raise ConfigError(f"{marker} is not what a demo leaves; name another directory with --keep") from None
        for old in directory.iterdir():
            if old.name.startswith(MARKER):
                continue
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        yield directory.absolute()


@dataclass(frozen=True)
class LiveEvent:
    """One transaction that happens during the demo. ``body`` is the request; the service never sees the rest."""

    transaction_id: str
    event_time_us: int
    amount_minor: int
    is_fraud: bool
    known_at: str
    known_at_us: int
    pattern: str
    body: bytes

    def request_of_id(self, id_column: str) -> bytes:
        """A request that names only this transaction."""
        return msgspec.json.encode({id_column: self.transaction_id})


def cut(simulated: Path, history: Path, *, days: int) -> tuple[str, list[dict[str, str]]]:
    """Write the first ``days`` days to ``history``; returns the moment of the cut and the rows after it.

    The column with the truth about fraud patterns stays out of the history: a model that reads it has seen the
    label. Labels carry the time at which they became known, and nothing uses one earlier.
    """
    live: list[dict[str, str]] = []
    with (
        simulated.open(newline="", encoding="utf-8") as read,
        history.open("w", newline="", encoding="utf-8") as written,
    ):
        rows = csv.reader(read)
        names = next(rows)
        time, truth = names.index(TIME), names.index(PATTERN)
        past = csv.writer(written, lineterminator="\n")
        past.writerow(names[:truth] + names[truth + 1 :])
        moment = ""
        for row in rows:
            moment = moment or (datetime.fromisoformat(row[time][:10]) + timedelta(days=days)).isoformat() + "Z"
            if row[time] < moment:
                past.writerow(row[:truth] + row[truth + 1 :])
            else:
                live.append(dict(zip(names, row, strict=True)))
    return moment, live


def events(schema: Schema, rows: list[dict[str, str]]) -> list[LiveEvent]:
    """The rows as requests in the schema's own names."""
    kinds = {schema.attribute_column(name): schema.attributes[name].type for name in schema.attributes}
    texts = {schema.id_column, schema.event_time.column, *schema.entities.values()}
    if schema.amount is None:
        raise ConfigError("the demo's project has no amount; was fraudml.yaml changed?")
    amount = schema.amount
    made = []
    for row in rows:
        document: dict[str, Any] = {name: row[name] for name in texts if row[name]}
        document[amount.column] = float(row[amount.column])
        document |= _attributes(kinds, row)
        made.append(
            LiveEvent(
                transaction_id=row[schema.id_column],
                event_time_us=microseconds(row[TIME]),
                amount_minor=round(float(row[amount.column]) * 10**amount.decimals),
                is_fraud=row[FRAUD] == "1",
                known_at=row[KNOWN_AT],
                known_at_us=microseconds(row[KNOWN_AT]),
                pattern=row[PATTERN],
                body=msgspec.json.encode(document),
            )
        )
    return made


def _attributes(kinds: Mapping[str, AttributeType], row: Mapping[str, str]) -> dict[str, Any]:
    read = {AttributeType.number: float, AttributeType.integer: int}
    return {name: read.get(kind, str)(row[name]) for name, kind in kinds.items() if row[name]}


def microseconds(iso: str) -> int:
    """Microseconds UTC of an ISO 8601 time.

    >>> microseconds("1970-01-01T00:00:01.500Z")
    1500000
    """
    return (datetime.fromisoformat(iso) - EPOCH) // timedelta(microseconds=1)
