"""``/health/live``, ``/health/ready`` and ``/metrics`` of a process without an API, in a thread of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from fraudml.errors import ConfigError
from fraudml.monitoring.metrics import CONTENT_TYPE


class Heart:
    """Beats at each turn of the loop."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def beat(self) -> None:
        """The loop turns."""
        self._last_s = time.monotonic()

    @property
    def still_s(self) -> float:
        """How long ago it was beating."""
        return time.monotonic() - self._last_s


class Facts(NamedTuple):
    """What is told: ``stuck``, whether a loop hangs; ``ready``, whether messages are handled now; ``metrics``, as
    text."""

    stuck: Callable[[], bool]
    ready: Callable[[], bool]
    metrics: Callable[[], bytes]


class StatusServer:
    """Answers on ``address`` until it is closed; raises ``ConfigError`` where it cannot listen. ``setting`` names the
    port."""

    def __init__(self, host: str, port: int, facts: Facts, setting: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # an answer is two packets, and the second would wait for an acknowledgement

            def do_GET(self) -> None:
                status, text, kind = answer(self.path.partition("?")[0], facts)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
                """Quiet: it is asked every few seconds."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another {setting}") from None
        self._server.daemon_threads = True
        self.address = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answer(path: str, facts: Facts) -> tuple[int, bytes, str]:
    """Status, text and content type.

    >>> answer("/health/live", Facts(lambda: False, lambda: True, lambda: b""))
    (200, b'{"status":"alive"}', 'application/json')
    """
    if path == "/metrics":
        return 200, facts.metrics(), CONTENT_TYPE
    if path == "/health/live":
        return _said(not facts.stuck(), "alive", "stuck")
    if path == "/health/ready":
        return _said(facts.ready(), "ready", "waiting")
    return 404, b'{"status":"there is only /health/live, /health/ready and /metrics"}', "application/json"


def _said(is_so: bool, yes: str, no: str) -> tuple[int, bytes, str]:
    return (200 if is_so else 503), f'{{"status":"{yes if is_so else no}"}}'.encode(), "application/json"
