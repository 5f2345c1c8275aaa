"""What is counted and logged of every request that was answered.

A line has the path's template, never the path, and no values of a transaction but its id. Requests that failed go
through the service's log, as everything does. With ``FRAUDML_REQUEST_LOG=all`` the others have a line each, too: those
are many, so they are written together by a thread, which may fall behind when nobody reads them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from fraudml.monitoring.metrics import Metrics

SOON_S = 0.2  # how long a line waits to be written with others
MOST_WAITING = 20_000  # lines; more are dropped, and said to be
STOP_S = 2.0

NAME = "fraudml.service"
logger = logging.getLogger(NAME)


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """A request that was answered. ``ms``: milliseconds from its arrival; ``key``: the name of the API key."""

    time: datetime
    level: str
    logger: str
    message: str
    request_id: str
    method: str
    route: str
    status: int
    ms: float
    key: str | None = None
    transaction_id: str | None = None


class Requests:
    """Used from one event loop; ``log_all_to``: the file descriptor that gets a line also of those that went well."""

    def __init__(self, metrics: Metrics, log_all_to: int | None = None) -> None:
        self.metrics = metrics
        self._writer = None if log_all_to is None else _Writer(log_all_to)

    def finish(self, method: str, route: str, facts: Mapping[str, Any], status: int, seconds: float) -> None:
        """Count and log one."""
        key = facts.get("key")
        self.metrics.request(route, status, key)
        if status < 400:
            if self._writer is not None:
                now, ms, transaction_id = datetime.now(UTC), round(seconds * 1_000, 3), facts.get("transaction_id")
                request_id = facts["request_id"]
                line = Line(now, "info", NAME, "request", request_id, method, route, status, ms, key, transaction_id)
                self._writer.write(line)
            return
        level = logging.WARNING if status >= 500 else logging.INFO
        failed = {
            "request_id": facts["request_id"],
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1_000, 3),
            "key": key,
            "transaction_id": facts.get("transaction_id"),
            "failure": str(facts["failure"]) if "failure" in facts else None,
        }
        logger.log(level, "request", extra={name: value for name, value in failed.items() if value is not None})

    def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._writer.close()


class _Writer:
    """Writes lines to a file descriptor, in a thread of its own."""

    def __init__(self, place: int) -> None:
        self._place = place
        self._encode = msgspec.json.Encoder().encode_lines
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        """Soon; waits for nothing."""
        if len(self._lines) >= MOST_WAITING:
            self._dropped += 1
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Write what waits, for a moment."""
        self._stopping.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(SOON_S):
                self._flush()
            self._flush()
        except OSError as error:  # who read them is gone
            logger.warning("requests are not logged any more: %s", error)

    def _flush(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if lines:
            rest = memoryview(self._encode(lines))
            while rest:
                rest = rest[os.write(self._place, rest) :]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("the lines of %d requests were dropped: nobody reads them fast enough", dropped)
