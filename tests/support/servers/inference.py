"""A V2 server in a thread that does as it is told, for what a real one does only when it is broken."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.tensors import HEADER_LENGTH, InferRequest, Packed, pack, unpack
from tests.support.servers.process import LOOPBACK

Scores = NDArray[np.float32]


class Reply(NamedTuple):
    """An answer; ``drip_s`` is the pause after each byte."""

    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012
    drip_s: float = 0.0


class InferenceServer:
    """Answers with what ``score`` makes of the vectors, or with what ``instead`` gives for a request to infer.

    ``seen`` has the rows of every such request, ``headers`` the last one's, ``connections`` how many were opened.
    """

    def __init__(self, score: Callable[[Scores], Scores], *, binary: bool = False) -> None:
        self.score = score
        self.binary = binary
        self.instead: Callable[[], Reply | None] = lambda: None
        self.ready = 200
        self.margins = True
        self.versions: list[str] = ["1"]
        self.seen: list[int] = []
        self.headers: dict[str, str] = {}
        self.connections = 0
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}/v2/models/fraud"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def get(self, path: str) -> Reply:
        """What it answers to anything but a request to infer."""
        document: Any = {"name": "fraud", "versions": self.versions}
        if path == "/v2":
            document = {"name": "told", "version": "7", "extensions": ["binary_tensor_data"] if self.binary else []}
        return Reply(self.ready if path.endswith("/ready") else 200, json.dumps(document).encode())

    def infer(self, body: bytes, length: str | None) -> Reply:
        """What it answers to one."""
        _, tensors = unpack(body, length, InferRequest)
        vectors = tensors["features"].astype(np.float32)
        self.seen.append(len(vectors))
        if (told := self.instead()) is not None:
            return told
        scores = self.score(vectors)
        outputs = {"probability": scores}
        if self.margins:
            outputs["margin"] = np.log(scores / (1 - scores)).astype(np.float32)
        packed = pack({"model_name": "fraud"}, "outputs", outputs, list(outputs) if self.binary else ())
        return Reply(200, packed.body, packed.headers)


def answer(name: str, values: Any, shape: list[int] | None = None) -> Packed:
    """A message with one output of any values."""
    output = {"name": name, "shape": [len(values)] if shape is None else shape, "datatype": "FP32", "data": values}
    return Packed(json.dumps({"model_name": "fraud", "outputs": [output]}).encode())


def _handler(server: InferenceServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits for an acknowledgement of its headers

        def setup(self) -> None:
            server.connections += 1
            super().setup()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.headers = dict(self.headers)
            infers = self.path.endswith("/infer")
            reply = server.infer(body, self.headers.get(HEADER_LENGTH)) if infers else server.get(self.path)
            if reply.status == 0:  # nothing at all
                self.close_connection = True
                return
            try:
                self.send_response(reply.status)
                for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                for place in range(0, len(reply.body), 1 if reply.drip_s else max(1, len(reply.body))):
                    self.wfile.write(reply.body[place : place + 1] if reply.drip_s else reply.body)
                    self.wfile.flush()
                    time.sleep(reply.drip_s)
            except OSError:
                self.close_connection = True  # the client did not wait

        do_GET = do_POST = _answer  # noqa: N815 - the names that the base class calls

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Quiet."""

    return Handler
