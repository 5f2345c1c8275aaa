"""What a load writes down: every request, when it should have been sent, how long it took, what came back."""

from __future__ import annotations

import re
from array import array
from collections import Counter

import msgspec

NO_ANSWER = 0  # in the place of a status
GOOD = 200
SHOWN = 300  # characters of an answer that is kept as a sample
_FAILED = re.compile(rb'"failed": ?(\d+)')


class Recorded(msgspec.Struct):
    """A finished load. Times are seconds; ``started`` counts from ``zero``, which is a ``time.perf_counter()``.

    ``started`` and ``latency`` are float64, ``status`` is uint16, one entry per request. ``failed_items`` are the
    transactions in batches that got no decision; ``degraded`` are good answers that lack what was expected.
    """

    zero: float
    started: bytes
    latency: bytes
    status: bytes
    errors: dict[str, int]
    samples: dict[str, str]
    degraded: int
    failed_items: int
    most_connections: int
    most_waiting: int
    cpu_s: float
    seconds: float


class Recorder:
    """Takes down requests while a load runs."""

    def __init__(self, expected: bytes = b"", *, batch: bool = False) -> None:
        self.errors: Counter[str] = Counter()
        self.samples: dict[str, str] = {}
        self.degraded = self.failed_items = 0
        self.started, self.latency, self.status = array("d"), array("d"), array("H")
        self._expected = expected
        self._batch = batch

    def answer(self, started: float, latency: float, status: int, body: bytes) -> None:
        """An answer arrived."""
        self.started.append(started)
        self.latency.append(latency)
        self.status.append(status)
        if status != GOOD:
            self.samples.setdefault(str(status), body[:SHOWN].decode(errors="replace"))
        elif self._batch:
            found = _FAILED.findall(body)
            failed = int(found[-1]) if found else 0
            if failed:
                self.failed_items += failed
                self.samples.setdefault("failed items", body[-SHOWN:].decode(errors="replace"))
        elif self._expected and self._expected not in body:
            self.degraded += 1
            self.samples.setdefault("degraded", body[:SHOWN].decode(errors="replace"))

    def no_answer(self, started: float, waited: float, reason: str) -> None:
        """No answer arrived, or the request could not even be sent: its latency was at least this."""
        self.started.append(started)
        self.latency.append(waited)
        self.status.append(NO_ANSWER)
        self.error(reason)

    def error(self, reason: str) -> None:
        """Something failed that belongs to no request."""
        self.errors[reason] += 1
