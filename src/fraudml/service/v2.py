"""``/v2``: the serving model for clients of the Open Inference Protocol (KServe, Triton, MLServer, another fraudml).

It scores feature vectors that the client brings along. Nothing is decided, recorded or remembered, and the local copy
of the model scores: a model server that asked another of its kind might ask in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from numpy.typing import NDArray

from fraudml import __version__
from fraudml.decisions.keys import Scope
from fraudml.decisions.model import Model
from fraudml.decisions.tensors import BINARY, FEATURES, HEADER_LENGTH, OUTPUTS, InferRequest, pack, unpack
from fraudml.errors import DataError, FraudmlError, NotFoundError, Overloaded
from fraudml.service import health
from fraudml.service.answers import json_response
from fraudml.service.auth import guard_of
from fraudml.service.body import parse, read_tensors
from fraudml.service.problems import ProblemError, answer_failure
from fraudml.service.state import state_of
from fraudml.service.threads import Lane

THREADS = 2
MOST_WAITING = 100
PLATFORM = "onnxruntime_onnx"


class ServerMetadata(msgspec.Struct, frozen=True):
    """What serves, and what it can beyond the protocol."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """A tensor; -1 stands for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """The model that serves: what it reads, and what it gives; the parameter ``features`` names the columns."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: dict[str, list[str]]


class ServerLive(msgspec.Struct, frozen=True):
    """The process answers."""

    live: bool = True


class ServerReady(msgspec.Struct, frozen=True):
    """The process can decide."""

    ready: bool = True


class ModelReady(msgspec.Struct, frozen=True):
    """The model is loaded."""

    name: str
    ready: bool = True


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, as the protocol has it."""

    error: str


class _Route(APIRoute):
    """A route that fails as the protocol says, in place of a problem document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See ``APIRoute``."""
        handle = super().get_route_handler()

        async def handle_or_fail(request: Request) -> Response:
            try:
                return await handle(request)
            except (ProblemError, FraudmlError) as error:
                response = answer_failure(error, request.scope["state"], state_of(request).metrics)
                problem = msgspec.json.decode(response.body)
                kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
                body = msgspec.json.encode(Failure(problem["detail"]))
                return Response(body, response.status_code, kept, "application/json")

        return handle_or_fail


router = APIRouter(prefix="/v2", route_class=_Route)
MODEL = "/models/{model_name}"
VERSION = MODEL + "/versions/{model_version}"


@router.get("")
async def server_metadata(request: Request) -> Response:
    """What serves."""
    await guard_of(request).require(request, Scope.score)
    return json_response(ServerMetadata("fraudml", __version__, (BINARY,)))


@router.get("/health/live")
async def live() -> Response:
    """Whether to restart the process."""
    return json_response(ServerLive())


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Whether to send requests here; see ``/health/ready``."""
    await health.ready(request)
    return json_response(ServerReady())


@router.get(MODEL + "/ready")
@router.get(VERSION + "/ready")
async def model_ready(request: Request) -> Response:
    """Whether the model is the one that serves."""
    _served(request)
    return json_response(ModelReady(request.path_params["model_name"]))


@router.get(MODEL)
@router.get(VERSION)
async def model_metadata(request: Request) -> Response:
    """What the model reads and gives."""
    await guard_of(request).require(request, Scope.score)
    model = _served(request)
    names = model.bundle.feature_set.input_names
    return json_response(
        ModelMetadata(
            request.path_params["model_name"],
            state_of(request).scorer.lineup.versions,
            PLATFORM,
            (TensorMetadata(FEATURES, "FP32", (-1, len(names))),),
            tuple(TensorMetadata(name, "FP32", (-1,)) for name in OUTPUTS),
            {FEATURES: list(names)},
        )
    )


@router.post(MODEL + "/infer")
@router.post(VERSION + "/infer")
async def infer(request: Request) -> Response:
    """Score feature vectors; nothing is decided or recorded."""
    started = time.perf_counter()
    state, guard = state_of(request), guard_of(request)
    key = await guard.require(request, Scope.score)
    model = _served(request)
    body = await read_tensors(request)
    read = partial(unpack, header_length=request.headers.get(HEADER_LENGTH), kind=InferRequest)
    try:
        message, inputs = await parse(body, read)
        vectors = _vectors(inputs, len(model.bundle.feature_set.inputs))
        binary = _wanted(message)
    except DataError as error:
        raise ProblemError(400, str(error)) from None
    if len(vectors) > state.settings.max_batch:
        raise ProblemError(413, f"a request may have {state.settings.max_batch} rows; split it into smaller ones")
    await guard.limit.admit(key.name, max(1, len(vectors)))
    lane: Lane = request.app.state.inference
    about = {"model_name": request.path_params["model_name"], "model_version": model.version, "id": message.id}
    try:
        # not in the scoring thread, nor on the event loop: nobody's decision shall wait
        packed = await lane.run(_infer, model, vectors, binary, {name: value for name, value in about.items() if value})
    except Overloaded:
        state.metrics.shed("queue_full")
        raise
    state.metrics.answered("infer", time.perf_counter() - started)
    return Response(packed.body, headers=packed.headers)


def inference_lane() -> Lane:
    """The threads that score vectors; an app has one such lane, as ``app.state.inference``."""
    return Lane(THREADS, MOST_WAITING)


def _served(request: Request) -> Model:
    """The model that the path names: the champion, or by its version any that serves."""
    state = state_of(request)
    lineup, name, given = state.scorer.lineup, state.settings.model_name, request.path_params
    model = lineup.model(given.get("model_version", lineup.version))
    if given["model_name"] != name or model is None:
        raise NotFoundError(f"this service has the model {name!r} of version {', '.join(lineup.versions)} only")
    return model


def _vectors(inputs: Mapping[str, NDArray[np.float64]], width: int) -> NDArray[np.float64]:
    if list(inputs) != [FEATURES]:
        raise DataError(f"inputs: expected one tensor, {FEATURES!r}")
    vectors = inputs[FEATURES]
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise DataError(f"inputs[0].shape: expected [n, {width}]")
    return vectors


def _wanted(message: InferRequest) -> dict[str, bool]:
    """The outputs to answer, and whether as bytes."""
    usual = message.parameters.get("binary_data_output") is True
    wanted = {output.name: output.parameters.get("binary_data", usual) is True for output in message.outputs}
    if unknown := wanted.keys() - set(OUTPUTS):
        raise DataError(f"outputs: there is no {sorted(unknown)[0]!r}; there are {' and '.join(OUTPUTS)}")
    return wanted or dict.fromkeys(OUTPUTS, usual)


def _infer(model: Model, vectors: NDArray[np.float64], binary: Mapping[str, bool], about: Mapping[str, Any]) -> Any:
    outputs = model.outputs(vectors)
    return pack(
        about, "outputs", {name: outputs[name] for name in binary}, [name for name, is_so in binary.items() if is_so]
    )
