"""Decisions in Snowflake: each batch goes to a temporary table, and from there into the table in one transaction."""

from __future__ import annotations

import contextlib

import pyarrow as pa

from fraudml.adapters.warehouse._marked import MarkedWarehouse, overtaken
from fraudml.errors import StoreError

INCOMING = "fraudml_incoming"


class SnowflakeWarehouse(MarkedWarehouse):
    """A ``Warehouse`` (decisions/warehouse.py) in a schema of Snowflake; its names are upper case."""

    def _name(self, table: str) -> str:
        return table

    def _quote(self, column: str) -> str:
        return f'"{column.upper()}"'

    def _stage(self, rows: pa.RecordBatch) -> str:
        self._session.run(f"CREATE OR REPLACE TEMPORARY TABLE {INCOMING} ({self._columns(rows.schema)})")
        self._session.load(INCOMING, rows.schema, [rows])
        return INCOMING

    def _commit(self, table: str, insert: str, move: str, before: int) -> None:
        self._session.run("BEGIN")
        try:
            if self._session.run(move) != 1:  # it locks the row until the end, so a second export waits here
                raise overtaken(table)
            self._session.run(insert)
            self._session.run("COMMIT")
        except BaseException:
            with contextlib.suppress(StoreError), self._failures("undoing"):
                self._session.run("ROLLBACK")
            raise
