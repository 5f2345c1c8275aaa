"""``/openapi.json`` and ``/docs``: made from the schema in use, and readable without any other site."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from fraudml.service.answers import json_response
from fraudml.service.auth import guard_of
from fraudml.service.openapi import document
from fraudml.service.state import state_of

router = APIRouter()


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    await guard_of(request).require_unless_local(request)
    return json_response(document(state_of(request)))


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The same as a page, with a command to paste for each operation. It runs no scripts."""
    await guard_of(request).require_unless_local(request)
    base = str(request.base_url).rstrip("/")
    page = _environment().get_template("docs.html").render(api=document(state_of(request)), base=base)
    return Response(page, media_type="text/html; charset=utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fraudml.service"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["json"] = _pretty
    environment.filters["shell"] = _shell
    return environment


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _shell(value: Any) -> str:
    """The value as JSON in a shell's single quotes.

    >>> print(_shell({"name": "O'Neill"}))
    '{"name":"O'\\''Neill"}'
    """
    return "'" + msgspec.json.encode(value).decode().replace("'", "'\\''") + "'"
