"""A tiny HTTP server in a thread: it answers as a test tells it, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

Answer = Callable[[int], bytes | None]  # from the number of a request; None hangs up


def answer(status: int = 200, body: bytes = b"{}", head: str = "") -> bytes:
    """A whole HTTP answer."""
    return f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


class Answering:
    """The server; ``bodies`` are decoded requests in the order in which they came.

    From the ``hold_from``-th request on it answers none until ``hold_until`` have come, then all of them: a stall
    whose length depends on nothing but the arrivals. ``hold_until`` of ``None`` is for good. With ``hold_s`` it answers
    them all that long after the first of them.
    """

    def __init__(
        self,
        make: Answer,
        hold_from: int | None = None,
        hold_until: int | None = None,
        hold_s: float | None = None,
    ) -> None:
        self.bodies: list[Any] = []
        self.heads: list[bytes] = []
        self.port = 0
        self._make = make
        self._hold_from, self._hold_until, self._hold_s = hold_from, hold_until, hold_s
        self._held: list[tuple[asyncio.StreamWriter, bytes | None]] = []

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                assert length is not None
                body = await reader.readexactly(int(length[1]))
                number = len(self.bodies)
                self.heads.append(head)
                self.bodies.append(msgspec.json.decode(body))
                self._respond(number, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _respond(self, number: int, writer: asyncio.StreamWriter) -> None:
        said = self._make(number)
        if self._hold_from is not None and number >= self._hold_from:
            if self._hold_s is not None and not self._held:
                asyncio.get_running_loop().call_later(self._hold_s, self._release)
            self._held.append((writer, said))
            if self._hold_until is not None and number + 1 >= self._hold_until:
                self._release()
        else:
            _write(writer, said)

    def _release(self) -> None:
        self._hold_from = None
        for writer, said in self._held:
            _write(writer, said)


def _write(writer: asyncio.StreamWriter, said: bytes | None) -> None:
    if said is None:
        writer.close()
    else:
        writer.write(said)


@contextmanager
def answering(
    make: Answer = lambda number: answer(),
    hold_from: int | None = None,
    hold_until: int | None = None,
    hold_s: float | None = None,
) -> Iterator[Answering]:
    """The running server."""
    server = Answering(make, hold_from, hold_until, hold_s)
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(server.serve(ready, stop))

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
