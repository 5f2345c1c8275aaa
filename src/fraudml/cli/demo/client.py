"""A small HTTP client: JSON over connections that stay open, one for each thread that calls."""

from __future__ import annotations

import http.client
import threading
from typing import Any

import msgspec

from fraudml.errors import FraudmlError

TIMEOUT_S = 30.0
_GOOD = 300


class Client:
    """Calls to the service on this machine's port; usable by many threads.

    Raises FraudmlError when it cannot be reached or answers with an error.
    """

    def __init__(self, port: int, token: str | None = None) -> None:
        self._port = port
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._mine = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def post(self, path: str, body: bytes) -> Any:
        """The decoded answer to a request."""
        try:
            try:
                status, text = self._send(path, body)
            except ConnectionError:
                # The service closed a connection that was idle for long. A retry is safe: the same transaction
                # gets the same answer, and a label that is known already changes nothing.
                self._connection().close()
                status, text = self._send(path, body)
        except (OSError, http.client.HTTPException) as error:
            raise FraudmlError(f"the service did not answer POST {path}: {error!r}") from error
        if status >= _GOOD:
            raise FraudmlError(f"the service answered {status} to POST {path}: {text[:500].decode()}")
        return msgspec.json.decode(text)

    def ready(self) -> bool:
        """Whether the service can score now."""
        connection = self._connection()
        try:
            connection.request("GET", "/health/ready", headers=self._headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return answer.status < _GOOD

    def close(self) -> None:
        """Close all connections; not while another thread calls."""
        for connection in self._opened:
            connection.close()

    def _send(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        connection.request("POST", path, body, self._headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
            self._mine.connection = connection
            self._opened.append(connection)
        return connection
