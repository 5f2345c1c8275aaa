"""Around every request: an id, headers, a log line, and the last answer when something unexpected happens."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fraudml.monitoring.metrics import Metrics
from fraudml.service.problems import unexpected
from fraudml.service.requests import Requests

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]

_OWN = frozenset(name for name, _ in SECURITY_HEADERS)

_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(secrets.randbits(32))

logger = logging.getLogger("fraudml.service")


class Envelope:
    """ASGI middleware; the outermost, so that nothing leaves the service without it."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other protocols (lifespan) pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = request_id_of(next((value for name, value in scope["headers"] if name == b"x-request-id"), None))
        facts: MutableMapping[str, Any] = scope.setdefault("state", {})
        facts["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}  # a route knows better than the defaults
                own = SECURITY_HEADERS if given.isdisjoint(_OWN) else [x for x in SECURITY_HEADERS if x[0] not in given]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *own]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499  # as nginx calls it: nobody is there to be answered
        except Exception as error:
            response = report(error, facts, self._requests.metrics)
            if not status:
                await response(scope, receive, send_with_headers)
        route = getattr(scope.get("route"), "path", "unmatched")
        self._requests.finish(scope["method"], route, facts, status, time.perf_counter() - started)


def report(error: Exception, facts: Mapping[str, Any], metrics: Metrics) -> Response:
    """The last resort: a defect of ours is logged under the request's id, and the client may retry."""
    logger.error("unexpected failure", extra={"request_id": facts["request_id"]}, exc_info=error)
    metrics.error(type(error).__name__)
    return unexpected(facts["request_id"])


def request_id_of(sent: bytes | None) -> str:
    """The client's own where it is a sensible one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return str(sent, "ascii")
    return f"{_PROCESS}{next(_numbers) & 0xFFFFFFFF:08x}"
