"""Decisions in BigQuery: each batch goes to a table of its own, and from there into the table in one transaction."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pyarrow as pa

from fraudml.adapters.warehouse._marked import MARKS, MarkedWarehouse, overtaken
from fraudml.decisions.log import ARRIVAL
from fraudml.errors import WarehouseError

MOVED = "fraudml: the watermark has moved"


class BigQueryWarehouse(MarkedWarehouse):
    """A ``Warehouse`` (decisions/warehouse.py) in a data set of BigQuery."""

    layout = " CLUSTER BY `arrival`"

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self._incoming = f"fraudml_incoming_{uuid4().hex[:12]}"

    def _name(self, table: str) -> str:
        return f"`{self._session.name(table)}`"

    def _place(self, table: str) -> str:
        return table

    def _quote(self, column: str) -> str:
        return f"`{column}`"

    def _stage(self, rows: pa.RecordBatch) -> str:
        self._session.run(
            f"CREATE OR REPLACE TABLE {self._name(self._incoming)} ({self._columns(rows.schema)}) "
            "OPTIONS (expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY))"
        )
        self._session.load(self._incoming, rows.schema, [rows])
        return self._name(self._incoming)

    def _commit(self, table: str, insert: str, move: str, before: int) -> None:
        """A script that fails in a transaction undoes it; of two at once BigQuery aborts one."""
        name, arrival = self._quote("name"), self._quote(ARRIVAL)
        mark = f"SELECT {arrival} FROM {self._name(MARKS)} WHERE {name} = '{table}'"  # noqa: S608 - names of ours
        script = [
            "BEGIN TRANSACTION",
            f"ASSERT ({mark}) = {int(before)} AS '{MOVED}'",
            insert,
            move,
            "COMMIT TRANSACTION",
        ]
        try:
            with self._failures("taking rows"):
                self._session.run(";\n".join(script))
        except WarehouseError as error:
            if MOVED in str(error):
                raise overtaken(table) from error
            raise

    def close(self) -> None:
        """Remove the table of a batch, and end the session."""
        self._session.drop(self._incoming)
        super().close()
