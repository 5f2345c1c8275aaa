"""Connections to files of DuckDB, from URLs."""

from __future__ import annotations

from pathlib import Path

import duckdb

from fraudml.errors import SourceError


def open_connection(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection to a file that is only read; raises ``SourceError`` when it cannot be opened."""
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    try:
        connection = duckdb.connect(path, read_only=True)
        connection.execute("SET enable_progress_bar = false")  # it would go to standard output, among the results
    except duckdb.Error as error:
        said = str(error).strip().partition("\n")[0]
        raise SourceError(f"cannot open {path} with DuckDB: {said}") from error
    return connection
