"""Opening the SQLite file: its mode, its tables, and what a commit waits for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fraudml.adapters.log import _migrate
from fraudml.adapters.log._migrate import Tables, compared, upgrade
from fraudml.decisions.log import Durability
from fraudml.errors import ConfigError, DecisionLogError

BUSY_TIMEOUT_MS = (
    5_000  # how long commands wait for another's commit; calls of the hot path have a setting of their own
)
# Commits leave the checkpoint to a thread; this many pages of write-ahead log mean that it does not keep up.
PAGES_UNTIL_COMMITS_HELP = 131_072
_SYNCHRONOUS = {Durability.process: "NORMAL", Durability.power: "FULL"}


def connect(url: str, durability: Durability = Durability.process) -> sa.Engine:
    """An engine for the SQLite file of a URL such as ``sqlite:///fraudml.db``, its tables made or migrated.

    The file is made readable by its owner only. Raises ``DecisionLogError`` when it cannot be opened, is no SQLite
    database, or was made by a newer fraudml.
    """
    path = database_file(url)
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not by the driver's guess
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            f"synchronous={_SYNCHRONOUS[durability]}",
            "foreign_keys=ON",
            f"wal_autocheckpoint={PAGES_UNTIL_COMMITS_HELP}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # a writer takes its lock at once: upgrading a read to a write may fail instead of waiting
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    with failures("opening"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # -wal and -shm get the same mode. An existing file is left alone: closing a descriptor of it would drop the
        # locks that another log of this process may have on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with engine.execution_options(immediate=True).begin() as connection:
            upgrade(connection)
    return engine


def tables(url: str) -> Tables:
    """Which tables the file has; it is not made, nor changed."""
    path = database_file(url)
    with failures("opening"):
        if not path.exists():
            return compared(None)
        engine = sa.create_engine(f"sqlite:///file:{quote(str(path.resolve()))}?mode=ro&uri=true")
        try:
            with engine.connect() as connection:
                return _migrate.tables(connection)
        finally:
            engine.dispose()


def database_file(url: str) -> Path:
    """The file of a URL such as ``sqlite:///fraudml.db``; raises ``ConfigError`` where it names none.

    >>> database_file("sqlite:////srv/fraudml.db").as_posix()
    '/srv/fraudml.db'
    """
    try:
        name = sa.make_url(url).database
    except SQLAlchemyError:  # its text repeats the URL
        name = None
    if not name or name == ":memory:":
        raise ConfigError("the decision log needs a file: sqlite:///path/to/fraudml.db")
    return Path(name)


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Errors of the driver, and of values that cannot be read or written, become DecisionLogErrors that say what was
    being done."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise DecisionLogError(
            f"the decision log failed while {doing}: {reason}; check its file, its permissions and the free disk space"
        ) from error
    except (ValueError, OverflowError, TypeError) as error:
        raise DecisionLogError(
            f"the decision log failed while {doing}: there is a value that this version of fraudml cannot read or "
            f"write ({error}); if a newer version wrote it, start that one"
        ) from error
