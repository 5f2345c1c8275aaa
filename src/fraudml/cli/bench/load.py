"""Closed and open loops over many connections.

A *closed* loop keeps N requests under way: each connection sends its next one when it is answered. It finds the most a
server can do, and hides its stalls, since a slow server is asked less often. An *open* loop sends at times fixed
beforehand, as the world does, and counts each latency from the time at which the request should have been sent: a
stall shows in every request that came due while it lasted (no coordinated omission; G. Tene, *How not to measure
latency*, 2013).
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.cli.bench.record import Recorder
from fraudml.cli.bench.wire import Connection

MOST_CONNECTIONS = 512  # of an open loop; what is due beyond them waits, and its latency counts on
RETRY_S = 0.05  # after a connection that could not be made
STALE_S = 3.0  # servers close connections that were idle for 5 s and more: an older one is not trusted
SPIN_S = 0.002  # timers of event loops are a millisecond or two late, so the last bit is waited for actively
NOT_SENT = "not sent: every connection was busy until the end"
NOT_ANSWERED = "not answered by the end"


class Plan(msgspec.Struct, frozen=True):
    """How to load a server. ``rate``: requests a second of an open loop; without one the loop is closed.

    An open loop opens up to ``most_connections`` as it needs them. After the end ``drain_s`` are given for what is
    under way. ``spin`` makes an open loop exact at the price of a core.
    """

    host: str
    port: int
    connections: int
    seconds: float
    warmup_s: float = 0.0
    rate: float | None = None
    poisson: bool = False
    seed: int = 0
    most_connections: int = MOST_CONNECTIONS
    drain_s: float = 10.0
    spin: bool = True

    @property
    def whole_s(self) -> float:
        """Seconds of the load, warm-up included."""
        return self.warmup_s + self.seconds


class Load(ABC):
    """A load on one server; :meth:`run` it once."""

    def __init__(self, plan: Plan, feed: Callable[[], bytes], record: Recorder) -> None:
        self.plan, self.feed, self.record = plan, feed, record
        self.zero = 0.0  # when the load began
        self.most_connections = self.most_waiting = 0
        self._open: set[Connection] = set()
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Open the first connections, load the server, wait for the last answers; raises OSError without any."""
        loop = asyncio.get_running_loop()
        first = [loop.create_connection(self._made, self.plan.host, self.plan.port) for _ in range(self._first())]
        await asyncio.gather(*first)
        self.zero = time.perf_counter()
        self._begin()
        try:
            async with asyncio.timeout(self.plan.whole_s + self.plan.drain_s):
                await self._done.wait()
        except TimeoutError:
            pass
        self._end()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.close()

    def opened(self, connection: Connection) -> None:
        """A connection can be used."""
        self._open.add(connection)
        self.most_connections = max(self.most_connections, len(self._open))
        if self.zero:
            self._ready(connection)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """An answer arrived: write it down, go on."""
        now = time.perf_counter()
        self.record.answer(connection.begun - self.zero, now - connection.begun, status, body)
        if connection.last:
            connection.close()
        else:
            self._ready(connection)

    def lost(self, connection: Connection, reason: str) -> None:
        """A connection was closed, by whomever."""
        self._open.discard(connection)
        if self._done.is_set():
            return
        if connection.waiting:
            self.record.no_answer(connection.begun - self.zero, time.perf_counter() - connection.begun, reason)
        self._gone(connection)

    @abstractmethod
    def _first(self) -> int:
        """How many connections to begin with."""

    @abstractmethod
    def _begin(self) -> None:
        """The connections are there."""

    @abstractmethod
    def _ready(self, connection: Connection) -> None:
        """A connection may send."""

    @abstractmethod
    def _gone(self, connection: Connection) -> None:
        """A connection cannot be used any more."""

    def _end(self) -> None:
        """Write down what is still under way."""
        self._done.set()
        now = time.perf_counter()
        for connection in self._open:
            if connection.waiting:
                self.record.no_answer(connection.begun - self.zero, now - connection.begun, NOT_ANSWERED)

    def _made(self) -> Connection:
        return Connection(self)

    def _connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._try_to_connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try_to_connect(self) -> None:
        while not self._done.is_set():
            try:
                await asyncio.get_running_loop().create_connection(self._made, self.plan.host, self.plan.port)
            except OSError as error:
                self.record.error(f"cannot connect: {error.strerror or error}")
                await asyncio.sleep(RETRY_S)
            else:
                return


class ClosedLoad(Load):
    """``connections`` requests under way, all the time."""

    def _first(self) -> int:
        return self.plan.connections

    def _begin(self) -> None:
        self._until = self.zero + self.plan.whole_s
        self._left = len(self._open)
        for connection in list(self._open):
            self._ready(connection)

    def _ready(self, connection: Connection) -> None:
        if time.perf_counter() < self._until:
            request = self.feed()  # making it is no latency
            connection.send(request, time.perf_counter())
        else:
            self._finished()

    def _gone(self, connection: Connection) -> None:
        if time.perf_counter() < self._until:
            self._connect()
        else:
            self._finished()

    def _finished(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.set()


class OpenLoad(Load):
    """Requests at their times, whatever the server does."""

    def _first(self) -> int:
        return min(self.plan.connections, self.plan.most_connections)

    def _begin(self) -> None:
        self._due = (self.zero + arrivals(self.plan)).tolist()
        self._next = 0
        self._idle = list(self._open)  # the last one used is the first one used again
        self._waiting: deque[float] = deque()  # due, and no connection is free
        self._opening = 0
        self._tick()

    def _tick(self) -> None:
        """Send what is due, and come back for the next."""
        now = time.perf_counter()
        due, place = self._due, self._next
        while place < len(due) and due[place] <= now:
            self._send(due[place], now)
            place += 1
        self._next = place
        if place == len(due):
            self._check_done()
            return
        loop = asyncio.get_running_loop()
        left = due[place] - time.perf_counter()
        if left > SPIN_S or not self.plan.spin:
            loop.call_later(max(left - SPIN_S if self.plan.spin else left, 0), self._tick)
        else:
            loop.call_soon(self._tick)

    def _send(self, due: float, now: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < STALE_S or not connection.idle_since:
                connection.send(self.feed(), due)
                return
            connection.close()
        self._waiting.append(due)
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        self._grow()

    def _grow(self) -> None:
        """Open what is needed, as far as it is allowed."""
        wanted = min(len(self._waiting), self.plan.most_connections - len(self._open))
        while self._opening < wanted:
            self._opening += 1
            self._connect()

    def opened(self, connection: Connection) -> None:
        """A connection can be used."""
        if self.zero:
            self._opening -= 1
        super().opened(connection)

    def _ready(self, connection: Connection) -> None:
        if self._waiting:
            connection.send(self.feed(), self._waiting.popleft())
        else:
            connection.idle_since = time.perf_counter()
            self._idle.append(connection)
            self._check_done()

    def _gone(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()
        self._check_done()

    def _check_done(self) -> None:
        if self._next == len(self._due) and not self._waiting and not any(each.waiting for each in self._open):
            self._done.set()

    def _end(self) -> None:
        super()._end()
        now = time.perf_counter()
        for due in (*self._waiting, *self._due[self._next :]):
            self.record.no_answer(due - self.zero, max(now - due, 0.0), NOT_SENT)


def arrivals(plan: Plan) -> NDArray[np.float64]:
    """The times at which an open loop sends, in seconds from its beginning.

    >>> arrivals(Plan("127.0.0.1", 80, connections=1, seconds=0.5, rate=8)).tolist()
    [0.0, 0.125, 0.25, 0.375]
    """
    rate = plan.rate or 0.0
    count = round(plan.whole_s * rate)
    if not plan.poisson:
        return np.arange(count) / rate
    gaps = np.random.default_rng(plan.seed).exponential(1 / rate, count)
    return np.cumsum(gaps)
