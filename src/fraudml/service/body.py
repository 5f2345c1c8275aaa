"""Request bodies: size, content type, and how long they may take; their JSON is read by ``events``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from fraudml.events.strict_json import decode_object
from fraudml.service.problems import ProblemError
from fraudml.service.state import state_of

LARGE = 100_000  # bytes; reading more takes long enough for other requests to notice
BODY_WITHIN_S = 30.0  # a client that stops halfway does not hold a connection for good
# The form type is what `curl -d` declares unless told otherwise; a form in a browser cannot send an API key.
_JSON_TYPE = re.compile(rb"application/(json|[\w.+-]+\+json|x-www-form-urlencoded)\s*(;.*)?", re.IGNORECASE)

__all__ = ["LARGE", "decode_object", "parse", "read", "read_body"]  # the routes take all of it from here

T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """The whole body of a request to one of the routes; see :func:`read`."""
    return await read(request.scope, request.receive, state_of(request).settings.max_body_bytes)


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body; 413 as soon as it is known to be too large, 415 when it is declared to be no JSON,
    408 when it stops arriving."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value != b"application/json" and _JSON_TYPE.fullmatch(value.strip()) is None:
                raise ProblemError(415, "send JSON, with the header Content-Type: application/json")
        elif name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            raise _too_large(limit)
    size = 0
    chunks = []
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise ProblemError(408, "the body did not arrive in time", {"Connection": "close"}) from None


async def parse(body: bytes, read: Callable[[bytes], T]) -> T:
    """What ``read`` makes of a body; a large one is read in another thread."""
    return await run_in_threadpool(read, body) if len(body) > LARGE else read(body)


def _too_large(limit: int) -> ProblemError:
    # the rest of the body is not read, so the connection cannot be used again
    return ProblemError(413, f"a request may have {limit} bytes; split it into smaller ones", {"Connection": "close"})
