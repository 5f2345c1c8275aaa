"""A lock between processes that ends with the process which holds it, however it ends."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class FileLock:
    """SQLite's own lock on an empty file: it works on every system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._holds: sqlite3.Connection | None = None

    def acquire(self) -> bool:
        """Whether this process holds it now; ``sqlite3.Error`` where the file cannot be made."""
        if self._holds is not None:
            return True
        lock = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return False
        self._holds = lock
        return True

    def release(self) -> None:
        """Give it back; nothing when it is not held."""
        if self._holds is not None:
            self._holds.close()
            self._holds = None
