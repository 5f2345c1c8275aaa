"""A real MLServer for tests, in an environment of its own: it wants an older FastAPI than fraudml."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.servers.process import LOOPBACK, ServerProcess, free_port, own_folder

HERE = Path(__file__).parent
LOCK = HERE.parents[3] / "requirements" / "mlserver.txt"
INSTALL_S = 600.0
MODEL, VERSION = "fraud", "1"
NO_MLSERVER = "no MLServer for this Python"  # its releases are for those before 3.13
START = "import sys; from mlserver.cli import main; sys.argv = ['mlserver', 'start', '.']; main()"


class MlServer:
    """A server with one ONNX file as the model ``fraud``, version 1; it may get another one and start again."""

    def __init__(self, model: bytes) -> None:
        python = interpreter()
        self.folder, self.port = own_folder(None), free_port()
        shutil.copy(HERE / "onnx_model.py", self.folder)
        ports = {"http_port": self.port, "grpc_port": free_port(), "metrics_port": free_port()}
        settings = {"host": LOOPBACK, "parallel_workers": 0, **ports}
        parameters = {"uri": str(self.folder / "model.onnx"), "version": VERSION}
        about = {"name": MODEL, "implementation": "onnx_model.OnnxModel", "parameters": parameters}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "model-settings.json").write_text(json.dumps(about))
        self.use(model)
        self.process = ServerProcess([str(python), "-c", START], self.folder, self._answers, None)
        self.process.start()

    @property
    def url(self) -> str:
        """What fraudml's settings call the model."""
        return f"http://{LOOPBACK}:{self.port}/v2/models/{MODEL}"

    def use(self, model: bytes) -> None:
        """Have this model from the next start on."""
        (self.folder / "model.onnx").write_bytes(model)

    def close(self) -> None:
        """End it and remove its folder."""
        self.process.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", f"/v2/models/{MODEL}/ready")
            assert connection.getresponse().status == 200
        finally:
            connection.close()


def interpreter() -> Path:
    """A Python that has MLServer and ONNX Runtime: ``FRAUDML_TEST_MLSERVER_PYTHON``, or that of our own environment."""
    given = os.environ.get("FRAUDML_TEST_MLSERVER_PYTHON")
    return Path(given) if given else _installed() / "bin" / "python"


def _installed() -> Path:
    """The environment: made once for each lock and Python, beside other caches."""
    if sys.version_info >= (3, 13):
        pytest.skip(NO_MLSERVER)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = LOCK.read_bytes() + sys.version.encode()
    folder = caches / "fraudml-tests" / f"mlserver-{sha256(wanted).hexdigest()[:12]}"
    if not (folder / "installed").exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(draft)])
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(draft / "bin" / "python")]
        _run([*pip, "install", "--quiet", "--no-compile", "--no-deps", "--require-hashes", "-r", str(LOCK)])
        (draft / "installed").touch()
        try:
            draft.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, f"MLServer cannot be installed:\n{done.stderr}"
