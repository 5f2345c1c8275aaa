"""The requests of a load: bodies made beforehand, to which an id and a time are added when one is sent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import msgspec

from fraudml.events.schema import TimeFormat
from fraudml.events.units import SECOND

_DIGITS = 16  # of an id, hexadecimal: always as many, so that the length of a body is known
_RANGE = 16**_DIGITS
_STEP = 0x9E3779B97F4A7C15  # odd, so that all numbers of the range come up before one comes up again
_UNIT_US = {
    TimeFormat.seconds_from: SECOND,
    TimeFormat.hours_from: 3_600 * SECOND,
    TimeFormat.days_from: 86_400 * SECOND,
}


class Stamp(msgspec.Struct, frozen=True):
    """What makes each transaction a new one: ``before`` + an id + ``between`` + the time now + a body.

    ``start_us``: what times of the formats ``..._from`` count from, microseconds UTC. ``first``: see :func:`scattered`.
    """

    before: bytes
    between: bytes
    format: TimeFormat = TimeFormat.iso
    start_us: int = 0
    first: int = 0


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
        around = len(stamp.before) + _DIGITS + len(stamp.between) + len(now())
        bodies = self._requests.bodies
        heads = {
            length: b"%s%d\r\n\r\n%s" % (self._head, around + length, stamp.before)
            for length in {len(body) for body in bodies}
        }
        between, join = stamp.between, b"".join
        for identifier, body in zip(scattered(stamp.first), itertools.cycle(bodies), strict=False):
            yield join((heads[len(body)], identifier, between, now(), body))

    def _batches(self, stamp: Stamp) -> Iterator[bytes]:
        now = clock(stamp.format, stamp.start_us)
        items = (
            b"".join((stamp.before, identifier, stamp.between, now(), body))
            for identifier, body in zip(scattered(stamp.first), itertools.cycle(self._requests.bodies), strict=False)
        )
        while chosen := b",".join(itertools.islice(items, self._requests.batch)):
            yield self._with_head(b'{"transactions":[%s]}' % chosen)


def scattered(first: int) -> Iterator[bytes]:
    """Ids that differ and have no order, as those of real clients: a counter times an odd number, modulo 2**64.

    Ascending ids would flatter a server: each lands on the same page of the index that keeps ids unique, while ids
    without an order land all over it.

    >>> ids = scattered(0)
    >>> [next(ids).decode() for _ in range(3)]
    ['0000000000000000', '9e3779b97f4a7c15', '3c6ef372fe94f82a']
    """
    number = first % _RANGE
    while True:
        yield b"%016x" % number
        number = (number + _STEP) % _RANGE


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
