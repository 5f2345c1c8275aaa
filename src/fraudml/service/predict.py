"""``/v1/predict``: a transaction in, a decision out. The hot path.

It is an ASGI application of its own, in front of FastAPI's routes, whose machinery would take most of a request's time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from fraudml.decisions import keys
from fraudml.errors import ConflictError, FraudmlError, RowError
from fraudml.service.answers import encode, prediction
from fraudml.service.auth import Guard
from fraudml.service.body import LARGE, parse
from fraudml.service.problems import NO_SUCH_METHOD, ProblemError, answer_failure
from fraudml.service.state import ServiceState

PATH = "/v1/predict"
_JSON = (b"content-type", b"application/json")


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
            body, headers = await self._answer(scope, receive)
        except (ProblemError, FraudmlError) as error:
            response = answer_failure(error, scope["state"], self._state.metrics)
            await response(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        started = time.perf_counter()
        state, facts = self._state, scope["state"]
        key = await self._guard.admit(scope["headers"], keys.Scope.score)
        facts["key"] = key.name
        self._guard.limit.take(key.name, 1)
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
        request = await state.pipeline.score((transaction,), decoded)
        (outcome,) = request.future.result()
        if isinstance(outcome, ConflictError):
            state.metrics.rejected("conflict")
            raise outcome
        body = encode(prediction(outcome))
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        took = time.perf_counter() - started
        state.metrics.answered("predict", took)
        if state.settings.server_timing:
            headers.append((b"server-timing", _server_timing(request.stages, took)))
        return body, headers


def _server_timing(stages: Mapping[str, float], took: float) -> bytes:
    """The header of that name (W3C): milliseconds in each stage; those of a batch are the whole batch's."""
    timed = {**stages, "total": took}
    return ", ".join(f"{name};dur={seconds * 1_000:.3f}" for name, seconds in timed.items()).encode()
