"""The OpenAPI document of the schema in use: request names and types are the user's own columns."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from fraudml import __version__
from fraudml.decisions.answer import Prediction
from fraudml.events.message_schema import ID, label_schema, transaction_schema
from fraudml.monitoring.profile import MOST_S
from fraudml.service import openapi_v2
from fraudml.service.answers import (
    BatchPrediction,
    DecisionView,
    Explanation,
    ItemError,
    LabelOutcome,
    LabelOutcomes,
)
from fraudml.service.batch import NDJSON
from fraudml.service.health import Alive, Ready
from fraudml.service.problems import PROBLEM_JSON, Problem
from fraudml.service.profile import DEFAULT_S, SVG
from fraudml.service.state import ServiceState

Json = dict[str, Any]
_ANSWERS = (
    *(Prediction, Explanation, LabelOutcome, DecisionView),
    *(ItemError, Problem, Alive, Ready),
    *openapi_v2.ANSWERS,
)
_PROBLEMS = {
    400: "The request asks to upgrade to another protocol, or is not sound HTTP (this is told in plain text).",
    401: "No API key, or not a valid one.",
    403: "The key lacks the scope.",
    404: "The transaction has not been scored here.",
    408: "The body did not arrive in time.",
    409: "The id was decided before with other content, or cannot be explained by this model.",
    413: "The body or the batch is too large.",
    415: "The body is declared to be something else than JSON.",
    422: "Fields are wrong: `errors` has the path of each and what was expected.",
    429: "The key's rate limit is used up: see `Retry-After`.",
    503: "A backend is unavailable: retry the same request, see `Retry-After`.",
}
_BODY_PROBLEMS = (400, 401, 403, 408, 413, 415, 422, 503)
_RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_KEYS: list[Json] = [{"bearer": []}, {"header": []}]


def document(state: ServiceState) -> Json:
    """The whole document."""
    _, components = msgspec.json.schema_components(_ANSWERS, ref_template="#/components/schemas/{name}")
    components["Transaction"] = transaction_schema(state.schema)
    components["Label"] = label_schema()
    components["BatchPrediction"] = _outcomes(BatchPrediction, "Prediction")
    components |= openapi_v2.schemas()
    components["LabelOutcomes"] = _outcomes(LabelOutcomes, "LabelOutcome")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fraudml",
            "version": __version__,
            "description": "Fraud decisions. Every request may be retried: a known id gets its first answer. "
            "What is not sound HTTP gets a 400 in plain text.",
        },
        "security": _KEYS,
        "paths": _paths(state) | openapi_v2.paths(openapi_v2.Serving(*state.serving)),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _outcomes(answer: type[BatchPrediction | LabelOutcomes], item: str) -> Json:
    """The answer to a batch: its items are of two kinds, which msgspec's own schemas cannot say."""
    either = [{"$ref": f"#/components/schemas/{name}"} for name in (item, "ItemError")]
    counts: Json = {name: {"type": "integer"} for name in answer.__struct_fields__ if name != "results"}
    shape = _object({"results": {"type": "array", "items": {"anyOf": either}}} | counts)
    return shape | {"description": inspect.getdoc(answer)}


def _paths(state: ServiceState) -> Json:
    example = dict(state.example)
    identifier = str(example.get(state.schema.id_column, "example-1"))
    label = {"transaction_id": identifier, "is_fraud": True}
    one: Json = {"$ref": "#/components/schemas/Transaction"}
    batch: Json = _object({"transactions": {"type": "array", "items": one}})
    labels: Json = _object({"labels": {"type": "array", "items": {"$ref": "#/components/schemas/Label"}}})
    by_id: Json = _object({"transaction_id": ID})
    id_parameter = {
        "name": "transaction_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": r"\S"},
        "example": identifier,
    }
    top = {
        "name": "top",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 10},
        "description": "How many reasons; the rest is summed up in other_contributions.",
    }
    return {
        "/v1/predict": {
            "post": _operation("Decide on one transaction", "score", "Prediction", (*_BODY_PROBLEMS, 409, 429))
            | _body(one, example)
        },
        "/v1/batch-predict": {
            "post": _with_lines(
                _operation("Decide on many transactions", "score", "BatchPrediction", (*_BODY_PROBLEMS, 429))
            )
            | _body(batch, {"transactions": [example]})
        },
        "/v1/explain": {
            "post": _operation(
                "Explain a decision by its id, or a transaction without recording it",
                "score",
                "Explanation",
                (*_BODY_PROBLEMS, 404, 409, 429),
            )
            | _body({"anyOf": [by_id, one]}, example)
            | {"parameters": [top]}
        },
        "/v1/labels": {
            "post": _operation(
                "Report fraud or not, for one transaction or many",
                "label",
                ("LabelOutcome", "LabelOutcomes"),
                (*_BODY_PROBLEMS, 404),
            )
            | _body({"anyOf": [{"$ref": "#/components/schemas/Label"}, labels]}, label)
        },
        "/v1/decisions/{transaction_id}": {
            "get": _operation("Show a decision", "read", "DecisionView", (401, 403, 404, 422, 503))
            | {"parameters": [id_parameter]}
        },
        "/health/live": {"get": _operation("The process answers", None, "Alive", ())},
        "/health/ready": {"get": _operation("The process can decide", None, "Ready", (503,))},
        "/metrics": {"get": _metrics()},
        "/v1/admin/profile": {"post": _profile()},
    }


def _operation(summary: str, scope: str | None, answer: str | tuple[str, ...], problems: tuple[int, ...]) -> Json:
    names = (answer,) if isinstance(answer, str) else answer
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    found = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    responses: Json = {"200": {"description": "Done.", "content": {"application/json": {"schema": found}}}}
    for status in sorted(problems):
        schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
        responses[str(status)] = {"description": _PROBLEMS[status], "content": {PROBLEM_JSON: schema}}
        if status == 400:
            responses["400"]["content"]["text/plain"] = {"schema": {"type": "string"}}
        if status in _HEADERS:
            responses[str(status)]["headers"] = _HEADERS[status]
    operation: Json = {"summary": summary, "responses": responses}
    if scope is None:
        return operation | {"security": []}
    return operation | {"description": f"Needs a key with the scope `{scope}`."}


def _with_lines(operation: Json) -> Json:
    """The same, also answered as a stream. OpenAPI 3.1 has no schema for lines: each is described in words."""
    lines = {
        "type": "string",
        "description": "Sent as decided, in the request's order: each line is a `Prediction` or an `ItemError`.",
    }
    operation["responses"]["200"]["content"][NDJSON] = {"schema": lines}
    operation["description"] += f" With `Accept: {NDJSON}` the results are sent line by line as they are decided."
    return operation


def _metrics() -> Json:
    operation = _operation("All metrics in Prometheus' text format", "read", "Alive", (401, 403))
    operation["description"] = "Free from this machine itself; from elsewhere it needs a key with the scope `read`."
    operation["security"] = [{}, *_KEYS]
    operation["responses"]["200"] = {
        "description": "Done.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return operation


def _profile() -> Json:
    operation = _operation("Draw a flame graph of the service", "admin", "Alive", (401, 403, 409, 422, 503))
    operation["responses"]["200"] = {"description": "Done.", "content": {SVG: {"schema": {"type": "string"}}}}
    operation["responses"]["409"]["description"] = "A profile is being recorded already."
    seconds = {"type": "integer", "minimum": 1, "maximum": MOST_S, "default": DEFAULT_S}
    return operation | {"parameters": [{"name": "seconds", "in": "query", "schema": seconds}]}


def _body(schema: Json, example: Any) -> Json:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def _object(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
