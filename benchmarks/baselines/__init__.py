"""Servers to compare with, each set up as its own documentation says for throughput, in an environment of its own.

They score a feature vector that the request brings along: no features, no keys, no record of what was decided.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fraudml.cli.bench.child import Cores, running
from fraudml.cli.bench.requests import Requests
from fraudml.cli.bench.server import Target

HERE = Path(__file__).parent
COMMON, MLSERVER = HERE.parent / "requirements-baselines.txt", HERE.parent / "requirements-mlserver.txt"
READY_WITHIN_S = 120.0
CHECKED, AT_ONCE = 64, 16  # scores that are checked, and how many of them are asked for at a time
TOLERANCE = 1e-5
Vectors = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Baseline:
    """A server: what it needs, how it is started (``{port}``, ``{models}`` are filled in), what it is asked.

    ``score`` finds the score in its answer; ``calibrated``: it serves the bundle's ONNX file, else XGBoost's own, the
    trees alone. ``note``: what somebody who compares should know of its set-up.
    """

    name: str
    requirements: Path
    command: tuple[str, ...]
    path: str
    body: Callable[[Sequence[str], Sequence[float]], Any]
    score: Callable[[Any], float]
    calibrated: bool
    note: str

    def requests(self, names: Sequence[str], vectors: Vectors) -> Requests:
        """Requests with these feature vectors."""
        return Requests(self.path, [json.dumps(self.body(names, vector)).encode() for vector in vectors])


BASELINES = (
    Baseline(
        "FastAPI + pydantic + DataFrame + XGBoost",
        COMMON,
        ("uvicorn", "fastapi_dataframe:app", "--port", "{port}", "--log-level", "warning", "--no-access-log"),
        "/predict",
        lambda names, vector: dict(zip(names, vector, strict=True)),
        lambda answer: answer["score"],
        False,
        "one worker; a `def` function, as most write it, which FastAPI runs in a thread (`async def` would save that).",
    ),
    Baseline(
        "FastAPI + pydantic + ONNX Runtime",
        COMMON,
        ("uvicorn", "fastapi_onnx:app", "--port", "{port}", "--log-level", "warning", "--no-access-log"),
        "/predict",
        lambda names, vector: {"features": list(vector)},
        lambda answer: answer["score"],
        True,
        "one worker, `async def`, no access log.",
    ),
    # LitServe and MLServer recommend batching and name no values; a few were tried, and none at all.
    Baseline(
        "LitServe + ONNX Runtime",
        COMMON,
        ("python", "litserve_onnx.py", "{port}"),
        "/predict",
        lambda names, vector: {"features": list(vector)},
        lambda answer: answer["score"],
        True,
        "one worker, `fast_queue`, its batching (`max_batch_size=16, batch_timeout=0.005`: the best of four tried).",
    ),
    Baseline(
        "BentoML + ONNX Runtime",
        COMMON,
        ("bentoml", "serve", "bentoml_onnx:Fraud", "--host", "127.0.0.1", "--port", "{port}"),
        "/predict",
        lambda names, vector: {"features": [list(vector)]},
        lambda answer: answer[0],
        True,
        "one worker, its adaptive batching (`batchable=True`), no access log.",
    ),
    Baseline(
        "MLServer + XGBoost",
        MLSERVER,
        ("mlserver", "start", "{models}/mlserver"),
        "/v2/models/fraud/infer",
        lambda names, vector: {
            "inputs": [
                {"name": "predict", "shape": [1, len(vector)], "datatype": "FP32", "data": [list(vector)]},
            ]
        },
        lambda answer: answer["outputs"][0]["data"][0],
        False,
        "inference in the server's process, its adaptive batching (`max_batch_size=16, max_batch_time=0.001`: the best "
        "of five tried over 16 connections; over 64, batches of 64 after 10 ms were faster).",
    ),
)


def environment(requirements: Path) -> Path:
    """The programs of a virtual environment with these pinned packages; made once, then kept in the user's cache."""
    content = requirements.read_bytes() + sys.version.encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    place = cache / "fraudml-benchmarks" / f"{requirements.stem}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not (place / "complete").exists():
        print(f"Installing {requirements.name} into {place} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        # the file is a complete lock: without --no-deps a CPU would get the packages of a GPU
        install = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "-r", str(requirements)], check=True)
        (place / "complete").touch()
    return place / "bin"


@contextmanager
def started(
    baseline: Baseline, models: Path, bodies: Sequence[bytes], expected: Sequence[float], cores: Cores
) -> Iterator[Target]:
    """The server, once it answers the first bodies with the expected scores.

    Raises RuntimeError with its log when it does not answer, and when a score is wrong.
    """
    port = free_port()
    if baseline.requirements == MLSERVER:
        _configure_mlserver(models, port)
    programs = environment(baseline.requirements)
    program, *arguments = (part.format(port=port, models=models) for part in baseline.command)
    own = {"MODELS": str(models), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(HERE)}
    # what a package may send home, it shall not send while it is measured
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "ORT_DISABLE_TELEMETRY": "1"}
    log = models / f"{baseline.path.strip('/').replace('/', '-')}-{port}.log"
    with (
        log.open("wb") as sink,
        running(
            [str(programs / program), *arguments],
            cores,
            stdout=sink,
            stderr=sink,
            cwd=HERE,
            env={**os.environ, **own, **quiet},
        ) as process,
    ):
        deadline = time.monotonic() + READY_WITHIN_S
        while _answer(port, baseline.path, bodies[0]) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{baseline.name} did not start:\n{log.read_text(errors='replace')[-3_000:]}")
            time.sleep(0.1)
        _check(baseline, port, bodies[:CHECKED], expected)
        yield Target("127.0.0.1", port, "", process.pid)


def free_port() -> int:
    """A port that nobody listens on, now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check(baseline: Baseline, port: int, bodies: Sequence[bytes], expected: Sequence[float]) -> None:
    """Ask several at once, so that answers from batches are checked, too."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda body: _answer(port, baseline.path, body), bodies))
    for number, (answer, right) in enumerate(zip(answers, expected, strict=False)):
        found = None if answer is None else baseline.score(json.loads(answer))
        if found is None or not abs(found - right) <= TOLERANCE:
            raise RuntimeError(f"{baseline.name} scores vector {number} {found}; the bundle's runtime says {right}")


def _answer(port: int, path: str, body: bytes) -> bytes | None:
    """The body of a good answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _configure_mlserver(models: Path, port: int) -> None:
    """The two files of MLServer's documentation. It has one core, so inference gets no process of its own."""
    folder = models / "mlserver"
    folder.mkdir(exist_ok=True)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    model = {
        "name": "fraud",
        "implementation": "mlserver_xgboost.XGBoostModel",
        "parameters": {"uri": str(models / "model.json"), "version": "v1"},
        "max_batch_size": 16,
        "max_batch_time": 0.001,
    }
    (folder / "settings.json").write_text(json.dumps({**settings, "debug": False, "parallel_workers": 0}))
    (folder / "model-settings.json").write_text(json.dumps(model))
