"""A decision log and its export into Parquet files, as tests fill and compare them."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import msgspec
import numpy as np

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import LabelReport, pack_vector
from fraudml.decisions.warehouse import DECISIONS, LABELS, Warehouse, exported_decisions, exported_schemas
from fraudml.events.label import Label
from fraudml.operations.sync import sync
from tests.support.scoring import SCHEMA, T0, decision, transaction
from tests.support.warehouses import Tables

FOREVER = 2**62
HOUR_S = 3_600
HOUR_US = HOUR_S * 1_000_000


def decided(log: DecisionLog, *hours: float) -> None:
    """A transaction for each, so long after T0, decided a second later."""
    log.append(
        [
            msgspec.structs.replace(
                decision(transaction(int(hour * HOUR_S)), int(T0 + hour * HOUR_US) + 1_000_000),
                vector=pack_vector(np.array([hour / 3, np.nan, -1.0])),
            )
            for hour in hours
        ]
    )


def reported(log: DecisionLog, hour: float, fraud: bool, after: float) -> None:
    """A report about the transaction of an hour, so many hours after it."""
    at = int(T0 + (hour + after) * HOUR_US) + 2_000_000
    log.append_labels([LabelReport(Label(f"t{int(hour * HOUR_S)}", fraud, at - 5), at)])


def contents(tables: Tables) -> dict[str, list[tuple[Any, ...]]]:
    return {table: tables.rows(f"fraudml_{table}", schema.names) for table, schema in exported_schemas(SCHEMA).items()}


def expected(log: DecisionLog) -> dict[str, list[tuple[Any, ...]]]:
    """What the log itself has."""
    schema = exported_schemas(SCHEMA)[DECISIONS]
    batches = {
        DECISIONS: [exported_decisions(batch, schema) for batch in log.audit_batches()],
        LABELS: [*log.audit_labels()],
    }
    return {
        table: [tuple(row.values()) for batch in found for row in batch.to_pylist()] for table, found in batches.items()
    }


def export(warehouse: Warehouse, log: DecisionLog, **options: Any) -> tuple[int, int]:
    with closing(warehouse):
        done = sync(log, warehouse, SCHEMA, until=FOREVER, **options)
    return done[DECISIONS].rows, done[LABELS].rows


def twice(tables: Tables, table: str = DECISIONS) -> set[int]:
    """The arrivals that a reader of all files sees more than once."""
    counted = Counter(arrival for (arrival,) in tables.rows(f"fraudml_{table}", ["arrival"]))
    return {arrival for arrival, times in counted.items() if times > 1}
