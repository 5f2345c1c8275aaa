"""Errors over HTTP: problem details (RFC 9457), never a stack trace, never a 500."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from fraudml.errors import (
    ConflictError,
    DataError,
    FieldProblem,
    FraudmlError,
    NotFoundError,
    OverloadError,
    RowError,
    StoreError,
)
from fraudml.monitoring.metrics import Metrics

PROBLEM_JSON = "application/problem+json"
NO_SUCH_METHOD = "this path does not accept this method; /docs lists what there is"
RETRY_AFTER_S = 1  # a backend that failed is asked again soon: clients that must decide cannot wait long
# Status -> what `type` ends in: for programs, which should not parse titles.
SLUGS = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    409: "conflict",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid",
    429: "rate-limited",
    503: "unavailable",
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong. ``errors`` names every wrong field; ``request_id`` finds the line in the service's log."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []
    request_id: str = ""


class ProblemError(Exception):
    """Raised by routes for what has no error of the domain: authentication, sizes, limits."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem = _problem(status, detail)
        self.headers = dict(headers or {})


def problem_of(error: FraudmlError, prefix: str = "") -> Problem:
    """The problem that an error of the domain is; ``prefix`` is the path of the item with the wrong fields.

    >>> problem_of(RowError([FieldProblem("amount", "expected a number")]), "transactions[3]").errors
    [FieldProblem(path='transactions[3].amount', expected='expected a number')]
    """
    if isinstance(error, RowError):
        wrong = [FieldProblem(_join(prefix, problem.path), problem.expected) for problem in error.problems]
        return msgspec.structs.replace(_problem(422, _count(len(wrong))), errors=wrong)
    if isinstance(error, NotFoundError):
        return _problem(404, str(error))
    if isinstance(error, ConflictError):
        return _problem(409, str(error))
    if isinstance(error, DataError):
        return _problem(422, str(error))
    if isinstance(error, OverloadError):
        return _problem(503, str(error))
    if isinstance(error, StoreError):  # its text may name files and drivers: that is for the log, not for clients
        return _problem(503, "a backend is unavailable; nothing was lost, retry the same request")
    return _problem(503, "the service cannot answer this now")


def respond(problem: Problem, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response of a problem; 503 always says when to retry."""
    extra = dict(headers or {})
    if problem.status == 503:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    body = msgspec.json.encode(msgspec.structs.replace(problem, request_id=request_id))
    return Response(body, problem.status, extra, PROBLEM_JSON)


def unexpected(request_id: str) -> Response:
    """For a defect of ours: the log has the traceback under the request's id."""
    return respond(_problem(503, "unexpected failure; please report the request_id"), request_id)


def add_handlers(app: FastAPI) -> None:
    """Answer every error that routes raise with a problem."""
    app.add_exception_handler(ProblemError, _on_failure)
    app.add_exception_handler(FraudmlError, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_defect)


def answer_failure(error: ProblemError | FraudmlError, facts: MutableMapping[str, Any], metrics: Metrics) -> Response:
    """The response to a request that failed; ``facts`` are those of its log line."""
    if isinstance(error, ProblemError):
        return respond(error.problem, facts["request_id"], error.headers)
    problem = problem_of(error)
    if problem.status == 503:
        metrics.error(type(error).__name__)
        facts["failure"] = error
    return respond(problem, facts["request_id"])


async def _on_failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, (ProblemError, FraudmlError)):
        raise error
    metrics: Metrics = request.app.state.service.metrics
    return answer_failure(error, request.scope["state"], metrics)


async def _on_defect(request: Request, error: Exception) -> Response:
    """Answers; the error goes on to where it is logged."""
    return unexpected(request.state.request_id)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    details: dict[int, Any] = {
        404: "there is nothing at this path; /docs lists what there is",
        405: NO_SUCH_METHOD,
    }
    problem = _problem(error.status_code, details.get(error.status_code, error.detail))
    return respond(problem, request.state.request_id, error.headers)


def _problem(status: int, detail: str) -> Problem:
    slug = SLUGS.get(status, "error")
    return Problem(f"urn:fraudml:problem:{slug}", HTTPStatus(status).phrase, status, detail)


def _join(item: str, field: str) -> str:
    return f"{item}.{field}" if item and field else item or field


def _count(wrong: int) -> str:
    return "one field is wrong" if wrong == 1 else f"{wrong} fields are wrong"
