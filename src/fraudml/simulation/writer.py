"""A simulation into one file: CSV, compressed CSV or Parquet, chosen by the file's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from fraudml.errors import ConfigError, DataError
from fraudml.simulation.config import SimulationConfig
from fraudml.simulation.simulator import simulate
from fraudml.simulation.tables import TIME, schema

Progress = Callable[[int, int], None]
WriteTable = Callable[[pa.Table], None]
Opener = Callable[[Path, pa.Schema], AbstractContextManager[WriteTable]]


@dataclass
class SimulationSummary:
    """What was written. ``patterns`` counts frauds by pattern if the configuration includes the truth."""

    path: Path
    rows: int = 0
    frauds: int = 0
    amount: Decimal = Decimal(0)
    fraud_amount: Decimal = Decimal(0)
    first_event: datetime | None = None
    last_event: datetime | None = None
    patterns: Counter[str] = field(default_factory=Counter)

    @property
    def fraud_rate(self) -> float:
        """Frauds among all transactions; 0 if there are none."""
        return self.frauds / self.rows if self.rows else 0.0

    def add(self, table: pa.Table) -> None:
        """Count one more day."""
        if not table.num_rows:
            return
        frauds = table.filter(pc.equal(table["is_fraud"], 1))
        self.rows += table.num_rows
        self.frauds += frauds.num_rows
        self.amount += pc.sum(table["amount"]).as_py()
        self.fraud_amount += pc.sum(frauds["amount"]).as_py() or Decimal(0)
        self.first_event = self.first_event or table["event_time"][0].as_py()
        self.last_event = table["event_time"][-1].as_py()
        if "fraud_pattern" in table.column_names:
            self.patterns.update(frauds["fraud_pattern"].to_pylist())


def write(config: SimulationConfig, path: Path | str, progress: Progress | None = None) -> SimulationSummary:
    """Simulate into a file whose name ends in ``.csv``, ``.csv.gz`` or ``.parquet``; replaces an old one.

    :param progress: called after each day with the transactions written and about how many there will be.
    :raises ConfigError: for another suffix, before anything is written.
    :raises DataError: if the file cannot be written.

    The file appears under its name only when it is complete; until then it is called ``<name>.part``.
    """
    target = Path(path)
    opened = _opener(target)
    part = target.with_name(target.name + ".part")
    summary = SimulationSummary(target)
    try:
        with opened(part, schema(config)) as write_table:
            for table in simulate(config):
                write_table(table)
                summary.add(table)
                if progress is not None:
                    progress(summary.rows, max(summary.rows, config.expected_rows))
        part.replace(target)
    except OSError as problem:
        raise DataError(f"cannot write {target}: {problem.strerror or problem}") from problem
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return summary


def _opener(target: Path) -> Opener:
    name = target.name.lower()
    for suffix, opener in _FORMATS.items():
        if name.endswith(suffix):
            return opener
    raise ConfigError(f"simulation: {target.name!r} must end in one of {', '.join(_FORMATS)}")


@contextmanager
def _parquet(path: Path, columns: pa.Schema) -> Iterator[WriteTable]:
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path, columns: pa.Schema, compression: str | None = None) -> Iterator[WriteTable]:
    # No text holds a comma or a quote, so none needs quoting; Arrow would still quote the header.
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    texts = pa.schema([pa.field(f.name, pa.string() if f.type == TIME else f.type) for f in columns])
    with pa.output_stream(path, compression=compression) as stream:
        stream.write((",".join(columns.names) + "\n").encode())
        with pa_csv.CSVWriter(stream, texts, write_options=options) as writer:
            yield lambda table: writer.write_table(_with_iso_times(table, texts))


@contextmanager
def _csv_gz(path: Path, columns: pa.Schema) -> Iterator[WriteTable]:
    with _csv(path, columns, compression="gzip") as write_table:
        yield write_table


_FORMATS: dict[str, Opener] = {".csv": _csv, ".csv.gz": _csv_gz, ".parquet": _parquet}


def _with_iso_times(table: pa.Table, columns: pa.Schema) -> pa.Table:
    """Times as ISO 8601 texts with a ``T`` and a ``Z``; Arrow's own CSV form has a blank instead of the T."""
    arrays = [_iso(column.combine_chunks()) if column.type == TIME else column for column in table.columns]
    return pa.table(arrays, schema=columns)


def _iso(times: pa.Array) -> pa.Array:
    plain = times.cast(pa.timestamp("ms"))
    day = plain.cast(pa.date32()).cast(pa.string())
    clock = plain.cast(pa.time32("ms")).cast(pa.string())
    return pc.binary_join_element_wise(day, pc.binary_join_element_wise(clock, "Z", ""), "T")
