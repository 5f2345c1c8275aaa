"""Checkpoints of SQLite's write-ahead log, beside the commits instead of in them.

A commit appends pages to the write-ahead log; a checkpoint copies them into the database and waits for the disk. By
default SQLite lets every commit that finds 1,000 pages do it, which is a pause of many milliseconds each time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fraudml.adapters.log._connection import failures
from fraudml.errors import DecisionLogError

# A commit writes about four pages, and each of its transaction ids, if they are random, one of the index.
PAGES_PER_COMMIT = 4
PAGES_PER_ROW = 1.25
PAGES = 16_384  # 64 MB
PASSES = 4
FEW_PAGES = 1_000

logger = logging.getLogger(__name__)


class Checkpointer:
    """Makes checkpoints in a thread of its own, started with the first one that is due.

    While it copies and waits for the disk, commits go on. Only the rest, which they wrote meanwhile, is copied with
    them held up (``lock``), because the log begins anew only when nothing in it is left to copy.
    """

    def __init__(self, engine: sa.Engine, lock: threading.Lock) -> None:
        self._engine = engine
        self._lock = lock
        self._pages = 0.0
        self._due = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def wrote(self, rows: int) -> None:
        """Told after every commit how many rows it wrote."""
        self._pages += PAGES_PER_COMMIT + PAGES_PER_ROW * rows
        if self._pages < PAGES:
            return
        self._pages = 0.0
        self._due.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fraudml-checkpoint", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the thread's end."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._due.wait() and not self._closing:
            self._due.clear()
            try:
                with failures("making a checkpoint"), self._engine.connect() as connection:
                    self._checkpoint(connection.connection.driver_connection)
            except DecisionLogError as error:  # commits go on, and help when the log has become long
                logger.warning("%s", error)

    def _checkpoint(self, driver: Any) -> None:
        seen = 0
        for _ in range(PASSES):
            pages = _copy(driver)
            _flush(Path(str(self._engine.url.database)))
            if pages - seen < FEW_PAGES or self._closing:
                break
            seen = pages
        with self._lock:
            _copy(driver)


def _copy(driver: sqlite3.Connection) -> int:
    """Copy what can be copied without disturbing anyone; returns the pages in the log at the start of it."""
    _, pages, _ = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)


def _flush(path: Path) -> None:
    """Wait for the disk now, so that there is little to wait for while commits are held up. SQLite does so again.

    The file is flushed by SQLite's own descriptor: opening and closing another would drop SQLite's locks on it.
    """
    try:
        wanted = path.stat()
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - these are numbers, not paths
            try:
                found = os.fstat(int(name))
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    os.fsync(int(name))
                    return
            except OSError:  # closed meanwhile
                continue
    except OSError:  # no such folder on this system: the rest takes longer
        return
