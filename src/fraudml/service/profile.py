"""``/v1/admin/profile``: where this service spends its time, for administrators."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path

from fastapi import APIRouter, Request, Response

from fraudml.decisions.keys import Scope
from fraudml.errors import FieldProblem, FraudmlError, Overloaded, RowError
from fraudml.monitoring import profile
from fraudml.service.auth import guard_of
from fraudml.service.problems import ProblemError
from fraudml.service.threads import Lane

router = APIRouter(prefix="/v1/admin")
DEFAULT_S = 10
SVG = "image/svg+xml"


@router.post("/profile")
async def record(request: Request) -> Response:
    """A flame graph of the next seconds; scoring goes on meanwhile."""
    await guard_of(request).require(request, Scope.admin)
    seconds = _seconds(request)
    lane: Lane = request.app.state.profiles
    ending = threading.Event()
    leaving = asyncio.create_task(_leaves(request, ending))
    try:
        picture = await lane.run(_record, seconds, ending)
    except Overloaded:
        raise ProblemError(409, "a profile is being recorded already; ask again when it has ended") from None
    except FraudmlError as error:
        raise ProblemError(503, str(error)) from error
    finally:
        leaving.cancel()
    name = 'attachment; filename="profile.svg"'
    return Response(picture, media_type=SVG, headers={"Content-Disposition": name})


def profile_lane() -> Lane:
    """One at a time; an app has one such lane, as ``app.state.profiles``."""
    return Lane(1, 0)


async def _leaves(request: Request, ending: threading.Event) -> None:
    """Nobody is looked into for a client that has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    ending.set()


def _record(seconds: int, ending: threading.Event) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fraudml-profile-") as place:
        path = Path(place) / "profile.svg"
        profile.record(os.getpid(), path, seconds, ending=ending)
        return path.read_bytes()


def _seconds(request: Request) -> int:
    text = request.query_params.get("seconds", str(DEFAULT_S))
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= profile.MOST_S):
        raise RowError([FieldProblem("?seconds", f"expected a whole number from 1 to {profile.MOST_S}")])
    return int(text)
