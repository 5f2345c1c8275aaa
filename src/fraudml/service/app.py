"""The HTTP service. The hot path starts in ``predict.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from fraudml import __version__
from fraudml.service import batch, decisions, docs, explain, health, labels, profile, v2
from fraudml.service.auth import Guard, Keyring
from fraudml.service.limits import RateLimit
from fraudml.service.middleware import Envelope
from fraudml.service.predict import Predict, ShortWay
from fraudml.service.problems import add_handlers
from fraudml.service.state import ServiceState


class Service(NamedTuple):
    """The application, and its short way for servers that can use it."""

    app: ASGIApp
    short_way: ShortWay


def create_app(state: ServiceState) -> Service:
    """What serves this state; it closes the state when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        await run_in_threadpool(state.close)

    # FastAPI's own documentation would load scripts from elsewhere: see docs.py
    app = FastAPI(title="fraudml", version=__version__, openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.service = state
    guard = Guard(Keyring(state.log.keys), state.limit or RateLimit(state.settings.rate_limit_per_s))
    app.state.guard = guard
    app.state.explanations = explain.explanation_lane()
    app.state.inference = v2.inference_lane()
    app.state.profiles = profile.profile_lane()
    app.state.ping = health.shared_ping(state)
    for module in (batch, explain, labels, decisions, health, docs, profile, v2):
        app.include_router(module.router)
    add_handlers(app)
    # around FastAPI, not in it as its middleware: a request for a prediction never gets that far
    return Service(Envelope(Predict(app, state, guard), state.requests), ShortWay(state, guard))
