"""Facts about the SQLite file of a decision log: for ``fraudml doctor``."""

from __future__ import annotations

import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from alembic.script import ScriptDirectory

from fraudml.adapters.log._connection import database_file
from fraudml.adapters.log._migrate import MIGRATIONS, VERSION_TABLE
from fraudml.decisions.servers import ServerFacts, Tables, Trial, Trouble

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


def tables(url: str, timeout_s: float) -> Tables | None:
    """The revision of its tables; ``None`` where there is no file yet."""
    path = database_file(url)
    if not path.exists():
        return None
    script = ScriptDirectory(str(MIGRATIONS))
    try:
        with closing(_open(path, timeout_s)) as connection:
            row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - our own name
    except sqlite3.Error:
        row = None
    known = {step.revision for step in script.walk_revisions()}
    found = None if row is None else str(row[0])
    return Tables(found, str(script.get_current_head()), found is None or found in known)


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
