"""The part of the OpenAPI document that describes ``/v2``: see :mod:`fraudml.service.v2`."""

from __future__ import annotations

from typing import Any, NamedTuple

from fraudml.decisions.tensors import BINARY_TYPE, DTYPES, FEATURES, HEADER_LENGTH, OUTPUTS
from fraudml.service import v2
from fraudml.service.problems import PROBLEM_JSON

Json = dict[str, Any]
ANSWERS = (v2.ServerMetadata, v2.ModelMetadata, v2.ServerLive, v2.ServerReady, v2.ModelReady, v2.Failure)
_FAILURES = {
    400: "A tensor is missing or wrong, or this is not sound HTTP (which is told in plain text).",
    401: "No API key, or not a valid one.",
    403: "The key lacks the scope.",
    404: "Another model, or another version, serves here.",
    408: "The body did not arrive in time.",
    413: "The body or the batch is too large.",
    415: "The body is declared to be neither JSON nor bytes.",
    429: "The key's rate limit is used up: see `Retry-After`.",
    503: "Too many such requests wait, or the service cannot answer now: retry the same request.",
}
_RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_WITH_KEY: Json = {"description": "Needs a key with the scope `score`."}
_WITHOUT: Json = {"security": []}
_KEY_NEEDED = (401, 403, 503)


class Serving(NamedTuple):
    """The model that ``/v2`` has."""

    name: str
    version: str
    width: int


def schemas() -> Json:
    """What requests and answers with tensors are made of."""
    parameters: Json = {"type": "object"}
    shape: Json = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "maxItems": 8}
    number: Json = {"type": ["number", "null"]}
    data: Json = {
        "anyOf": [
            {"type": "array", "items": number},
            {"type": "array", "items": {"type": "array", "items": number}},
        ],
        "description": "In row-major order, flat or by rows; null is missing. Absent where the numbers are bytes.",
    }
    tensor: Json = {"name": {"type": "string"}, "shape": shape, "datatype": {"enum": list(DTYPES)}, "data": data}
    tensor["parameters"] = parameters | {"description": "`binary_data_size` of a tensor whose numbers are bytes."}
    wanted = {"name": {"enum": list(OUTPUTS)}, "parameters": parameters}
    return {
        "Tensor": {"type": "object", "properties": tensor, "required": ["name", "shape", "datatype"]},
        "InferRequest": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
                "outputs": {
                    "type": "array",
                    "items": {"type": "object", "properties": wanted, "required": ["name"]},
                    "description": "Those wanted; all when absent.",
                },
                "parameters": parameters,
            },
            "required": ["inputs"],
        },
        "InferResponse": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            },
            "required": ["model_name", "model_version", "outputs"],
        },
    }


def paths(serving: Serving) -> Json:
    """The operations."""
    name, version = (
        {"name": each, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}
        for each, example in (("model_name", serving.name), ("model_version", serving.version))
    )
    found: Json = {
        "/v2": {"get": _operation("What serves", "ServerMetadata", _KEY_NEEDED)},
        "/v2/health/live": {"get": _operation("The process answers", "ServerLive", (), key=False)},
        "/v2/health/ready": {"get": _operation("The process can decide", "ServerReady", (503,), key=False)},
    }
    for place, parameters in ((v2.MODEL, [name]), (v2.VERSION, [name, version])):
        path, given = f"/v2{place}", {"parameters": parameters}
        found[path] = {
            "get": _operation("What the model reads and gives", "ModelMetadata", (*_KEY_NEEDED, 404)) | given
        }
        found[f"{path}/ready"] = {"get": _operation("The model is ready", "ModelReady", (404,), key=False) | given}
        found[f"{path}/infer"] = {"post": _infer(serving.width) | given}
    return found


def _infer(width: int) -> Json:
    operation = _operation("Score feature vectors", "InferResponse", (*_KEY_NEEDED, 400, 404, 408, 413, 415, 429))
    operation["description"] += (
        f" `{FEATURES}` has the shape [n, {width}]. Nothing is decided or recorded. Tensors may be bytes after the "
        f"JSON, whose length then is in the header `{HEADER_LENGTH}`."
    )
    length = {HEADER_LENGTH: {"schema": {"type": "integer"}}}
    operation["responses"]["200"]["content"][BINARY_TYPE] = {"schema": {"type": "string", "format": "binary"}}
    operation["responses"]["200"]["headers"] = length
    vector = [0.0] * width
    example = {"inputs": [{"name": FEATURES, "shape": [1, width], "datatype": "FP32", "data": vector}]}
    schema = {"$ref": "#/components/schemas/InferRequest"}
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": schema, "example": example}},
    }
    return operation


def _operation(summary: str, answer: str, failures: tuple[int, ...], *, key: bool = True) -> Json:
    found = {"schema": {"$ref": f"#/components/schemas/{answer}"}}
    responses: Json = {"200": {"description": "Done.", "content": {"application/json": found}}}
    for status in sorted(failures):
        content: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
        if status == 400:
            content["text/plain"] = {"schema": {"type": "string"}}
        if status == 404:  # of a path that no model can have
            content[PROBLEM_JSON] = {"schema": {"$ref": "#/components/schemas/Problem"}}
        responses[str(status)] = {"description": _FAILURES[status], "content": content}
        if status in _HEADERS:
            responses[str(status)]["headers"] = _HEADERS[status]
    operation: Json = {"summary": summary, "responses": responses}
    return operation | (_WITH_KEY if key else _WITHOUT)
