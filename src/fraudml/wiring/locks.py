"""Work that must not be done twice at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from fraudml.adapters.log._lock import FileLock
from fraudml.errors import ConfigError
from fraudml.settings import Settings


@contextmanager
def only_one(settings: Settings, command: str) -> Iterator[None]:
    """Inside, no other process with this home directory runs the command; raises ConfigError while one does.

    A process that was killed holds nothing.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / f"{command}.lock"
    lock = FileLock(path)
    try:
        free = lock.acquire()
    except sqlite3.Error as error:
        raise ConfigError(f"cannot lock {path}: {error}") from None
    if not free:
        raise ConfigError(f"another `fraudml {command}` runs in this home directory; wait until it has ended")
    try:
        yield
    finally:
        lock.release()
