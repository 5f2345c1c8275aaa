"""The requests of a load: bodies made beforehand, to which an id and a time are added when one is sent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import msgspec

from fraudml.events.schema import TimeFormat
from fraudml.events.units import SECOND

_MOST = 10**9  # transactions of one run: their numbers have nine digits, so that the length of a body is known
_UNIT_US = {
    TimeFormat.seconds_from: SECOND,
    TimeFormat.hours_from: 3_600 * SECOND,
    TimeFormat.days_from: 86_400 * SECOND,
}


class Stamp(msgspec.Struct, frozen=True):
    """What makes each transaction a new one: ``before`` + a number + ``between`` + the time now + a body.

    ``start_us``: what times of the formats ``..._from`` count from, microseconds UTC.
    """

    before: bytes
    between: bytes
    format: TimeFormat = TimeFormat.iso
    start_us: int = 0


class Requests(msgspec.Struct, frozen=True):
    """Everything to send: the bodies are used in their order, and again from the first one when they are used up.

    ``batch``: the transactions of one request, as ``{"transactions": [...]}``; 0 sends one, on its own. Without a
    ``stamp`` a body is sent as it is. An answer with status 200 that lacks ``expected`` counts as degraded.
    """

    path: str
    bodies: list[bytes]
    headers: dict[str, str] = {}
    stamp: Stamp | None = None
    batch: int = 0
    expected: bytes = b""


class Feed:
    """The next request's bytes, again and again, head included.

    >>> feed = Feed(Requests("/v1", [b"{}"], {"X-Me": "1"}), "here:80")
    >>> feed().decode().split("\\r\\n")
    ['POST /v1 HTTP/1.1', 'Host: here:80', 'X-Me: 1', 'Content-Type: application/json', 'Content-Length: 2', '', '{}']
    """

    def __init__(self, requests: Requests, host: str) -> None:
        headers = {"Host": host, **requests.headers, "Content-Type": "application/json"}
        lines = [f"POST {requests.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()
        self._requests = requests
        if requests.stamp is None:
            whole = [self._with_head(body) for body in requests.bodies]
            self._next = itertools.cycle(whole).__next__
        else:
            make = self._batches if requests.batch else self._singles
            self._next = make(requests.stamp).__next__

    def __call__(self) -> bytes:
        """The next request."""
        return self._next()

    def _with_head(self, body: bytes) -> bytes:
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)

    def _singles(self, stamp: Stamp) -> Iterator[bytes]:
        now = clock(stamp.format, stamp.start_us)
        around = len(stamp.before) + 9 + len(stamp.between) + len(now())
        bodies = self._requests.bodies
        heads = {
            length: b"%s%d\r\n\r\n%s" % (self._head, around + length, stamp.before)
            for length in {len(body) for body in bodies}
        }
        between, join = stamp.between, b"".join
        for number, body in zip(range(_MOST), itertools.cycle(bodies), strict=False):
            yield join((heads[len(body)], b"%09d" % number, between, now(), body))

    def _batches(self, stamp: Stamp) -> Iterator[bytes]:
        now = clock(stamp.format, stamp.start_us)
        items = (
            b"".join((stamp.before, b"%09d" % number, stamp.between, now(), body))
            for number, body in zip(range(_MOST), itertools.cycle(self._requests.bodies), strict=False)
        )
        while chosen := b",".join(itertools.islice(items, self._requests.batch)):
            yield self._with_head(b'{"transactions":[%s]}' % chosen)


def clock(written: TimeFormat, start_us: int = 0) -> Callable[[], bytes]:
    """A function that gives the time now as a JSON value in a schema's format, always of the same length.

    >>> len(clock(TimeFormat.iso)()), len(clock(TimeFormat.days_from)()), len(clock(TimeFormat.epoch_ms)())
    (29, 24, 13)
    """
    if written is TimeFormat.iso:
        return _iso_clock()
    if written is TimeFormat.epoch_s:
        return lambda: b"%d.%06d" % divmod(time.time_ns() // 1_000, SECOND)
    if written is TimeFormat.epoch_ms:
        return lambda: b"%d" % (time.time_ns() // 1_000_000)
    if written is TimeFormat.epoch_us:
        return lambda: b"%d" % (time.time_ns() // 1_000)
    unit_us = _UNIT_US[written]
    # white space after a number is JSON, and makes every number as long as the others
    return lambda: (b"%.10f" % ((time.time_ns() // 1_000 - start_us) / unit_us)).ljust(24)


def _iso_clock() -> Callable[[], bytes]:
    second, text = -1, b""

    def now() -> bytes:
        nonlocal second, text
        this, micros = divmod(time.time_ns() // 1_000, SECOND)
        if this != second:  # formatting a date takes as long as all the rest of a request
            second, text = this, time.strftime('"%Y-%m-%dT%H:%M:%S', time.gmtime(this)).encode()
        return b'%s.%06dZ"' % (text, micros)

    return now
