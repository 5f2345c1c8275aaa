"""A model on any server of the Open Inference Protocol (V2): KServe, Triton, MLServer, or another fraudml.

The model reads ``features`` (FP32 ``[n, k]``) and gives ``probability`` and, if it likes, ``margin``, as a bundle's
``model.onnx`` does. Tensors travel as bytes where the server has the extension for that, else as JSON with ``null`` for
missing values.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.model_server._http import SETTING, Answer, Client, address
from fraudml.decisions.tensors import BINARY, HEADER_LENGTH, InferResponse, pack, unpack
from fraudml.errors import ConfigError, DataError, ModelServerError
from fraudml.models.runtime import INPUT, MARGIN, PROBABILITY

MOST_ROWS = 1_000  # in a request; servers have limits on the size of one
_PATH = re.compile(r"(?P<root>.*/v2)/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?")
_EDGE = 2.0**-24  # probabilities nearer to 0 and 1 are none that float32 can tell from these


class Server(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    name: str = ""
    version: str = ""
    extensions: list[str] = []


class ServedVersions(msgspec.Struct, frozen=True):
    """What a server says of a model."""

    name: str = ""
    versions: list[str] | None = None


class Found(NamedTuple):
    """A server and its model."""

    server: Server
    versions: list[str]


class OpenInferenceModel:
    """See :class:`fraudml.decisions.model_server.RemoteModel`. ``width`` is the number of features.

    ``url``: ``http://host:8080/v2/models/NAME``, where the server chooses the version, or with ``/versions/VERSION``.
    Raises ConfigError when it is none of these.
    """

    def __init__(self, url: str, width: int, timeout_s: float, *, most_rows: int = MOST_ROWS) -> None:
        server = address(url)
        parts = _PATH.fullmatch(server.path)
        if parts is None:
            raise ConfigError(f"{SETTING} has to end in /v2/models/NAME or /v2/models/NAME/versions/VERSION")
        self.place = server.place
        self._client = Client(server, timeout_s)
        self._root, self._path, self._version = parts["root"], server.path, parts["version"]
        self._width, self._most_rows = width, most_rows
        self._binary = False

    def prepare(self) -> None:
        """See ``RemoteModel``."""
        self._binary = BINARY in self.describe().server.extensions

    def describe(self) -> Found:
        """The server, and the versions of the model that it tells of; raises ModelServerError when it is not ready."""
        answer = self._client.request("GET", self._root)
        server = _read(answer, Server) if answer.status == 200 else Server()  # some gateways pass on models only
        self.check_ready()
        versions = _read(self._client.request("GET", self._path), ServedVersions).versions or []
        if self._version is not None and versions and self._version not in versions:
            raise ModelServerError(f"it has the versions {', '.join(versions)} only; see {SETTING}")
        return Found(server, versions)

    def check_ready(self) -> None:
        """Raise ModelServerError unless the model is ready."""
        ready = self._client.request("GET", f"{self._path}/ready")
        if ready.status == 404:
            raise ModelServerError(f"it has no model at this path; see {SETTING}")
        _expect_success(ready, "says the model is not ready")

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """See ``RemoteModel``."""
        return self._in_pieces(vectors, self._probabilities)

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """See ``RemoteModel``; where the server gives no ``margin`` it is computed from the probability."""
        return self._in_pieces(vectors, self._margins)

    def _in_pieces(self, vectors: NDArray[np.float32], ask: Any) -> NDArray[np.float64]:
        starts = range(0, len(vectors), self._most_rows)
        pieces = [ask(vectors[start : start + self._most_rows]) for start in starts]
        return np.concatenate(pieces) if pieces else np.empty(0)

    def _probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        found = self._infer(vectors)
        # a server that gives one output may call it what it likes
        values = found.get(PROBABILITY) if len(found) > 1 else next(iter(found.values()), None)
        if values is None:
            raise ModelServerError(f"its model does not give {PROBABILITY!r}")
        if not np.all((values >= 0.0) & (values <= 1.0)):  # NaN is neither
            raise ModelServerError("it answered probabilities that are none")
        return values

    def _margins(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        found = self._infer(vectors)
        if (margins := found.get(MARGIN)) is None:
            values = next(iter(found.values())) if len(found) == 1 else found.get(PROBABILITY)
            if values is None or not np.all((values >= 0.0) & (values <= 1.0)):
                raise ModelServerError(f"its model gives neither {MARGIN!r} nor a probability")
            bounded = np.clip(values, _EDGE, 1 - _EDGE)
            margins = np.log(bounded / (1 - bounded))
        if not np.all(np.isfinite(margins)):
            raise ModelServerError("it answered log-odds that are none")
        return margins

    def _infer(self, vectors: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Its outputs, float64 ``[n]`` each."""
        if vectors.shape[1] != self._width:
            raise ValueError(f"expected {self._width} features, got {vectors.shape[1]}")
        document = {"parameters": {"binary_data_output": True}} if self._binary else {}
        packed = pack(document, "inputs", {INPUT: vectors}, (INPUT,) if self._binary else ())
        answer = self._client.request("POST", f"{self._path}/infer", packed.body, packed.headers)
        _expect_success(answer, "refused to score")
        try:
            _, outputs = unpack(answer.body, answer.headers.get(HEADER_LENGTH), InferResponse)
        except DataError as error:
            raise ModelServerError(f"its answer cannot be used: {error}") from None
        for name, values in outputs.items():
            if values.shape not in ((len(vectors),), (len(vectors), 1)):
                raise ModelServerError(
                    f"its output {name!r} has the shape {list(values.shape)} for {len(vectors)} inputs"
                )
        return {name: values.reshape(-1) for name, values in outputs.items()}


def _read(answer: Answer, kind: type[Any]) -> Any:
    _expect_success(answer, "does not describe the model")
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError:
        raise ModelServerError(f"it does not speak the Open Inference Protocol (V2); see {SETTING}") from None


def _expect_success(answer: Answer, otherwise: str) -> None:
    if answer.status in (401, 403):
        raise ModelServerError(f"it wants other credentials than those in {SETTING} (status {answer.status})")
    if answer.status != 200:
        raise ModelServerError(f"it {otherwise} (status {answer.status}){_said(answer)}")


def _said(answer: Answer) -> str:
    """The protocol's own words for what went wrong, shortened; nothing where it has none."""
    try:
        told = msgspec.json.decode(answer.body).get("error")
    except (msgspec.MsgspecError, AttributeError):
        return ""
    return f": {told.splitlines()[0][:200]}" if isinstance(told, str) and told else ""
