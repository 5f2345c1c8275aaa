"""Connections: uvicorn's own, and a short way past ASGI for ``/v1/predict``.

ASGI starts a task for each request, with an event, an object for each message and a check of each header: together
they take longer than a decision. A request that is complete in what was read at once is handed straight to the
pipeline instead, and its answer is written to the connection when its batch is done. Whatever is unusual about a
request, from a body that comes in pieces to a key that is not known, goes uvicorn's way, as if this were not here: the
parser's calls are only put off until that is certain.
"""

from __future__ import annotations

import re
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fraudml.service.predict import PATH, ShortWay, lines

_PATH = PATH.encode()
# Java's own client offers to go on in HTTP/2. A server may ignore that (RFC 9110, section 7.8), but the parser would
# not: it would take the body for that other protocol's.
_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
_STATUS = {int(status): f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, short_way: ShortWay, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._short_way = short_way
        self._held = False  # a request whose headers uvicorn has not been told of yet
        self._body = b""  # of that
        self._between = True  # no request has begun that has not been read to its end

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        if self._between and b"h2c" in data:  # never out of a body: the next request would be taken for its end
            head, end, body = data.partition(b"\r\n\r\n")
            data = b"%b%b%b" % (_OFFER.sub(b"", head), end, body)
        super().data_received(data)
        if self._held:  # there is more to come
            self._let_go()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        parser = self.parser
        if (
            self.url == _PATH
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self._is_idle()
        ):
            self._held = True
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._held:
            self._body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._between = True
        if self._held:
            exchange = _Exchange(self.parser.should_keep_alive())
            if self._short_way.take(self.headers, self._body, partial(self._reply, exchange)):
                self.cycle = exchange  # type: ignore[assignment]
                self._held = False
                self._body = b""
                return
            self._let_go()
        super().on_message_complete()

    def _is_idle(self) -> bool:
        """Whether no earlier request is being answered."""
        cycle: Any = self.cycle  # None before the first
        return cycle is None or bool(cycle.response_complete)

    def _let_go(self) -> None:
        """Tell uvicorn what was held back."""
        body, self._held, self._body = self._body, False, b""
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _reply(self, exchange: _Exchange, status: int, headers: bytes, body: bytes) -> None:
        exchange.response_complete = True
        if not exchange.disconnected and not self.transport.is_closing():
            more = lines(self.server_state.default_headers)
            if not exchange.keep_alive:
                more += b"connection: close\r\n"
            self.transport.write(b"%b%b%b\r\n%b" % (_STATUS[status], more, headers, body))
            if not exchange.keep_alive:
                self.transport.close()
        self.on_response_complete()


class _Exchange:
    """A request on the short way, and what uvicorn wants to know of it, in its words."""

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False
        self.message_event = self

    def set(self) -> None:
        """Nobody waits for messages."""
