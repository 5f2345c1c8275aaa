"""``/health/live``, ``/health/ready`` and ``/metrics``."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from fraudml.decisions.record import Degradation
from fraudml.errors import DecisionLogError
from fraudml.monitoring.metrics import CONTENT_TYPE
from fraudml.service.answers import json_response
from fraudml.service.auth import guard_of
from fraudml.service.problems import ProblemError
from fraudml.service.state import ServiceState, state_of
from fraudml.service.threads import SharedCall

router = APIRouter()
READY_WITHIN_S = 2.0  # a log that answers later is as good as gone


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str = "alive"


class Ready(msgspec.Struct, frozen=True):
    """The process can decide: its model is loaded, its state rebuilt, its log or its journal there. ``degraded``: what
    is not available now."""

    model_version: str
    status: str = "ready"
    degraded: tuple[Degradation, ...] = ()


def shared_ping(state: ServiceState) -> SharedCall[None]:
    """Whether the log answers, asked once for all who want to know; an app has one, as ``app.state.ping``."""

    def ping() -> None:
        state.log.ping()

    return SharedCall(ping)


@router.get("/health/live")
async def live() -> Response:
    """Whether to restart the process: it never asks a backend."""
    return json_response(Alive())


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Whether to send requests here: also while a dependency is gone that decisions can do without."""
    state = state_of(request)
    if not state.pipeline.alive:
        raise ProblemError(503, "the service's threads have ended; restart it")
    degraded, recorder = state.scorer.degraded, state.scorer.recorder
    if recorder.stuck:
        raise ProblemError(503, "decisions cannot be kept: neither the decision log nor the journal takes them")
    if Degradation.decision_log not in degraded:
        ping: SharedCall[None] = request.app.state.ping
        try:
            await ping.result(READY_WITHIN_S)
        except (TimeoutError, DecisionLogError) as error:
            if not recorder.has_journal:
                raise ProblemError(503, "the decision log does not answer") from error
            degraded = (*degraded, Degradation.decision_log)
    return json_response(Ready(state.scorer.model.version, degraded=degraded))


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus' text format."""
    await guard_of(request).require_unless_local(request)
    state = state_of(request)
    text = await run_in_threadpool(state.metrics.text)
    return Response(text, media_type=CONTENT_TYPE)
