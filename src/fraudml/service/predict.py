"""``/v1/predict``: a transaction in, a decision out. The hot path.

There are two ways to the pipeline. :class:`Predict` is ASGI, in front of FastAPI's routes, and serves every request
there can be. :class:`ShortWay` takes the usual ones (see :mod:`fraudml.service.connection`) for half of the time, and
leaves all that is unusual, errors before a decision too, to the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from fraudml.decisions import keys
from fraudml.decisions.answer import encode, prediction
from fraudml.errors import ConflictError, FraudmlError, RowError
from fraudml.service.auth import Guard
from fraudml.service.body import JSON, LARGE, parse
from fraudml.service.middleware import SECURITY_HEADERS, report, request_id_of
from fraudml.service.pipeline import Outcome
from fraudml.service.problems import NO_SUCH_METHOD, ProblemError, answer_failure
from fraudml.service.state import ServiceState
from fraudml.service.waiting import Waiting

PATH = "/v1/predict"
Headers = list[tuple[bytes, bytes]]
# Gets the status, the lines of the headers (each with its end) and the body.
Reply = Callable[[int, bytes, bytes], None]


class Predict:
    """Answers ``/v1/predict`` and hands everything else to the application behind it."""

    def __init__(self, app: ASGIApp, state: ServiceState, guard: Guard) -> None:
        self._app = app
        self._state = state
        self._guard = guard
        self.path = PATH  # this is also the request's route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        scope["route"] = self
        try:
            if scope["method"] != "POST":
                raise ProblemError(405, NO_SUCH_METHOD, {"Allow": "POST"})
            body, timing = await self._answer(scope, receive)
        except (ProblemError, FraudmlError) as error:
            response = answer_failure(error, scope["state"], self._state.metrics)
            await response(scope, receive, send)
            return
        headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
        if timing:
            headers.append((b"server-timing", timing))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, bytes]:
        started = time.perf_counter()
        state, facts = self._state, scope["state"]
        key = await self._guard.admit(scope["headers"], keys.Scope.score)
        facts["key"] = key.name
        await self._guard.limit.admit(key.name, 1)
        raw = await state.bodies.read(scope, receive)
        arrived = time.perf_counter()
        try:
            decode = state.decoder.decode
            transaction = decode(raw) if len(raw) <= LARGE else await parse(raw, decode)
        except RowError:
            state.metrics.rejected("invalid")
            raise
        decoded = time.perf_counter() - arrived
        facts["transaction_id"] = transaction.transaction_id
        return _answer(state, started, await state.pipeline.score((transaction,), decoded))


class ShortWay:
    """Decides on a request whose body is there, without a task of its own. Used from one event loop."""

    def __init__(self, state: ServiceState, guard: Guard) -> None:
        self._state = state
        self._guard = guard

    def take(self, headers: Headers, raw: bytes, reply: Reply) -> bool:
        """Whether this request is one for the short way: then ``reply`` is called later. If not, nothing was done."""
        started = time.perf_counter()
        state = self._state
        given = dict(headers)
        key = self._guard.known(headers, keys.Scope.score)
        usual = len(given) == len(headers) and given.get(b"content-type", JSON) == JSON
        if key is None or not usual or len(raw) > min(LARGE, state.bodies.limit) or state.pipeline.full:
            return False
        arrived = time.perf_counter()
        try:
            transaction = state.decoder.decode(raw)
            taken = self._guard.limit.take(key.name, 1)
        except Exception:
            return False  # whatever it is, the other way will find that, too, and say so
        if not taken:
            return False
        request_id = request_id_of(given.get(b"x-request-id"))
        facts = {"request_id": request_id, "key": key.name, "transaction_id": transaction.transaction_id}

        def answered(request: Waiting[list[Outcome]]) -> None:
            self._answered(request, facts, started, reply)

        state.pipeline.submit(Waiting((transaction,), answered, decode_s=time.perf_counter() - arrived))
        return True

    def _answered(self, request: Waiting[list[Outcome]], facts: dict[str, Any], started: float, reply: Reply) -> None:
        state = self._state
        status = 200
        try:
            body, timing = _answer(state, started, request)
            own = b"content-type: %b\r\ncontent-length: %d\r\n" % (JSON, len(body))
            if timing:
                own += b"server-timing: %b\r\n" % timing
        except Exception as error:
            if isinstance(error, FraudmlError):
                response = answer_failure(error, facts, state.metrics)
            else:
                response = report(error, facts, state.metrics)
            status, own, body = response.status_code, lines(response.raw_headers), bytes(response.body)
        reply(status, b"%bx-request-id: %b\r\n%b" % (own, facts["request_id"].encode(), _SECURITY_LINES), body)
        state.requests.finish("POST", PATH, facts, status, time.perf_counter() - started)


def _answer(state: ServiceState, started: float, request: Waiting[list[Outcome]]) -> tuple[bytes, bytes]:
    """The body for a request that the pipeline answered, and the value of ``Server-Timing`` where it is wanted; raises
    what it got instead of a decision."""
    (outcome,) = request.answer()
    if isinstance(outcome, ConflictError):
        state.metrics.rejected("conflict")
        raise outcome
    body = encode(prediction(outcome))
    took = time.perf_counter() - started
    state.metrics.answered("predict", took)
    wanted = state.settings.server_timing
    return body, _server_timing({**request.stages, "total": took}) if wanted else b""


def lines(headers: Headers) -> bytes:
    """Headers as HTTP/1.1 has them.

    >>> lines([(b"a", b"1"), (b"b", b"2")])
    b'a: 1\\r\\nb: 2\\r\\n'
    """
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_SECURITY_LINES = lines(SECURITY_HEADERS)


def _server_timing(stages: dict[str, float]) -> bytes:
    """The header of that name (W3C): milliseconds in each stage; those of a batch are the whole batch's."""
    return ", ".join(f"{name};dur={seconds * 1_000:.3f}" for name, seconds in stages.items()).encode()
