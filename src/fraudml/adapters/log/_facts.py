"""Facts about the SQLite file of a decision log: for ``fraudml doctor``."""

from __future__ import annotations

import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from fraudml.adapters.log._connection import database_file
from fraudml.decisions.servers import ServerFacts, Trial, Trouble

READS = 5


def facts(url: str, timeout_s: float) -> ServerFacts | Trouble | None:
    """What is there, and whether it can be written to; ``None`` where there is no file yet. Nothing is changed."""
    path = database_file(url)
    if not path.exists():
        return None
    try:
        with closing(_open(path, timeout_s)) as connection:
            taken = []
            for _ in range(READS):
                started = time.perf_counter()
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                taken.append(time.perf_counter() - started)
            write = _problem(connection)
    except sqlite3.Error as error:
        return Trouble(f"{path} cannot be used: {error}", "check its permissions, or restore it from a backup")
    return ServerFacts(
        place=str(path),
        product="SQLite",
        version=sqlite3.sqlite_version,
        latency_ms=median(taken) * 1e3,
        trials=(Trial("write to it", write),),
        details={"others_may_read": str(bool(stat.S_IMODE(path.stat().st_mode) & 0o077))},
    )


def _open(path: Path, timeout_s: float) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"  # never makes a file
    return sqlite3.connect(uri, uri=True, timeout=timeout_s / 2, isolation_level=None)


def _problem(connection: sqlite3.Connection) -> str | None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE fraudml_doctor (n INTEGER)")
    except sqlite3.Error as error:
        return str(error)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return None
