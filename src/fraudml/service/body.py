"""Request bodies: size, content type, and how long they may take; their JSON is read by ``events``."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from fraudml.events.strict_json import decode_object
from fraudml.service.problems import ProblemError

LARGE = 100_000  # bytes; reading more takes long enough for other requests to notice
BODY_WITHIN_S = 30.0  # a client that stops halfway does not hold a connection for good
JSON = b"application/json"
# The form type is what `curl -d` declares unless told otherwise; a form in a browser cannot send an API key.
_JSON_TYPE = re.compile(rb"application/(json|[\w.+-]+\+json|x-www-form-urlencoded)\s*(;.*)?", re.IGNORECASE)
_TENSOR_TYPE = re.compile(_JSON_TYPE.pattern + rb"|application/octet-stream", re.IGNORECASE)
# uvicorn drops the body of such a request; an offer of HTTP/2 is another matter, see connection.py
NO_UPGRADE = "the body was lost: send HTTP/1.1 without the header Upgrade"

__all__ = [
    "JSON",
    "LARGE",
    "BodyReader",
    "decode_object",
    "parse",
    "read_body",
    "read_tensors",
]  # the routes take all of it from here

T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """The whole body of a request to one of the routes; see :meth:`BodyReader.read`."""
    bodies: BodyReader = request.app.state.service.bodies
    return await bodies.read(request.scope, request.receive)


async def read_tensors(request: Request) -> bytes:
    """The same where bytes may follow the JSON."""
    bodies: BodyReader = request.app.state.service.bodies
    return await bodies.read(request.scope, request.receive, _TENSOR_TYPE)


class BodyReader:
    """Reads bodies of at most ``limit`` bytes. Used from one event loop.

    One timer looks after all bodies under way: a timer for each would take longer than reading it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._since: dict[asyncio.Task[Any], float] = {}  # who waits for a body
        self._late: set[asyncio.Task[Any]] = set()
        self._watching = False

    async def read(self, scope: Scope, receive: Receive, types: re.Pattern[bytes] = _JSON_TYPE) -> bytes:
        """The whole body; 413 as soon as it is known to be too large, 415 when it is declared to be no JSON,
        408 when it stops arriving, 400 when it was lost because the request asks for another protocol."""
        for name, value in scope["headers"]:
            if name == b"content-type":
                if value != JSON and types.fullmatch(value.strip()) is None:
                    raise ProblemError(415, "send JSON, with the header Content-Type: application/json")
            elif name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > self.limit):
                raise _too_large(self.limit)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body is read in a task")
        self._since[task] = time.monotonic()
        if not self._watching:
            self._watch()
        try:
            body = await self._chunks(receive)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise ProblemError(408, "the body did not arrive in time", {"Connection": "close"}) from None
        finally:
            del self._since[task]
            self._late.discard(task)
        if not body and any(name == b"upgrade" for name, _ in scope["headers"]):
            raise ProblemError(400, NO_UPGRADE, {"Connection": "close"})
        return body

    async def _chunks(self, receive: Receive) -> bytes:
        size = 0
        chunks = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.limit:
                raise _too_large(self.limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunk if len(chunks) == 1 else b"".join(chunks)

    def _watch(self) -> None:
        """End the wait for bodies that are late, and come back while there are any."""
        limit = time.monotonic() - BODY_WITHIN_S
        for task, since in self._since.items():
            if since < limit and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watching = bool(self._since)
        if self._watching:
            asyncio.get_running_loop().call_later(BODY_WITHIN_S / 10, self._watch)


async def parse(body: bytes, read: Callable[[bytes], T]) -> T:
    """What ``read`` makes of a body; a large one is read in another thread."""
    return await run_in_threadpool(read, body) if len(body) > LARGE else read(body)


def _too_large(limit: int) -> ProblemError:
    # the rest of the body is not read, so the connection cannot be used again
    return ProblemError(413, f"a request may have {limit} bytes; split it into smaller ones", {"Connection": "close"})
