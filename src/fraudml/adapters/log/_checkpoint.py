"""Checkpoints of SQLite's write-ahead log, beside the commits instead of in them.

A commit appends pages to the write-ahead log; a checkpoint copies them into the database and waits for the disk. By
default SQLite lets every commit that finds 1,000 pages do it, which is a pause of many milliseconds each time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
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
    them held up (``lock``), because the log begins anew only when nothing in it is left to copy. Where the rest does
    not become short, because much is written or somebody reads for long, it is left for the next time.
    """

    def __init__(self, engine: sa.Engine, lock: threading.Lock) -> None:
        self._engine = engine
        self._lock = lock
        self._pages = 0.0
        self._due = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._file: int | None = None

    def wrote(self, rows: int) -> None:
        """Told after every commit how many rows it wrote; the caller holds ``lock``."""
        self._pages += PAGES_PER_COMMIT + PAGES_PER_ROW * rows
        if self._pages < PAGES:
            return
        self._pages = 0.0
        self._due.set()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="fraudml-checkpoint", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no room for a thread; the commit is done all the same
                logger.exception("the checkpoints of the decision log could not be started")
            else:
                self._thread = thread

    def close(self) -> None:
        """Wait for the thread's end; no commit comes after this."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def close_file(self) -> None:
        """Give the file back, after every connection to it is closed: closing any descriptor of a file drops all
        locks that the process has on it, SQLite's too."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._closing:  # read after the clear: a close in between is seen here, or sets the event again
                return
            try:
                with failures("making a checkpoint"), self._engine.connect() as connection:
                    self._checkpoint(connection.connection.driver_connection)
            except DecisionLogError as error:  # commits go on, and help when the log has become long
                logger.warning("%s", error)
            except Exception:
                logger.exception("a checkpoint of the decision log failed")

    def _checkpoint(self, driver: Any) -> None:
        before = 0
        for _ in range(PASSES):
            pages, copied = _copy(driver)
            self._flush()
            if self._closing:
                return  # the last connection to be closed copies the rest
            # fewer pages than before: the log began anew meanwhile
            if (pages - before if pages >= before else pages) < FEW_PAGES:
                break
            before = copied
        else:
            return
        with self._lock:
            _copy(driver)

    def _flush(self) -> None:
        """Wait for the disk now, so that there is little to wait for while commits are held up: SQLite does so again,
        but only once nothing is left to copy."""
        if self._file is None:
            self._file = os.open(str(self._engine.url.database), os.O_RDONLY)
        os.fsync(self._file)


def _copy(driver: sqlite3.Connection) -> tuple[int, int]:
    """Copy what can be copied without disturbing anyone; the pages in the log at the start of it, and how many of
    them are in the database now. Raises ``DecisionLogError`` while another process makes a checkpoint."""
    busy, pages, copied = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if busy:
        raise DecisionLogError("another process is making a checkpoint of the decision log; this one is left out")
    return int(pages), int(copied)
