"""One HTTP connection of a load: a request out, its answer in, as little work as possible in between.

It understands what servers of JSON send: a status line, a Content-Length, a connection that stays open. Whatever else
arrives ends the connection with a reason, and the load counts it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol, cast

KEPT = 4_096  # bytes of an answer's end that are kept: batches have megabytes
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_END = b"\r\n\r\n"
_LONGEST_HEAD = 65_536


class Owner(Protocol):
    """Whose connections they are."""

    def opened(self, connection: Connection) -> None:
        """The connection can be used."""
        ...

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """An answer is complete; ``body`` is the whole of a short one, else its last :data:`KEPT` bytes."""
        ...

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection is closed; ``connection.waiting`` says whether an answer is still due."""
        ...


class Connection(asyncio.Protocol):
    """A connection; ``begun`` is the time (of the owner's clock) that its request's latency counts from.

    ``last``: it must not be used again, as its server closes it. ``idle_since`` is for the owner, too.
    """

    def __init__(self, owner: Owner) -> None:
        self.begun = self.idle_since = 0.0
        self.waiting = self.last = False
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._head = b""  # of an answer whose head is not complete
        self._missing = 0  # bytes of the body under way
        self._status = 0
        self._body = b""
        self._reason = ""

    def send(self, request: bytes, begun: float) -> None:
        """Send a request; the answer to the one before must have arrived."""
        self.begun, self.waiting = begun, True
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._owner.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self._owner.lost(self, self._reason or str(error or "the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._missing:
            self._missing -= len(data)
            self._body = (self._body + data)[-KEPT:]
        else:
            if self._head:
                data = self._head + data
            end = data.find(_END)
            if end < 0:
                self._head = data
                if len(data) > _LONGEST_HEAD:
                    self._refuse("no end of the answer's head")
                return
            self._head = b""
            length = _LENGTH.search(data, 0, end)
            if length is None or not data.startswith(b"HTTP/1."):
                self._refuse("the answer is no HTTP/1.1 with a Content-Length")
                return
            self._status = int(data[9:12])
            if _CLOSE.search(data, 0, end):
                self.last = True
            self._missing = int(length[1]) - (len(data) - end - len(_END))
            self._body = data[end + len(_END) :]
        if self._missing < 0 or not self.waiting:
            self._refuse("more arrived than the answer")
        elif self._missing == 0:
            self.waiting = False
            self._owner.answered(self, self._status, self._body)

    def _refuse(self, reason: str) -> None:
        self._reason, self._missing = reason, 0
        self.close()
