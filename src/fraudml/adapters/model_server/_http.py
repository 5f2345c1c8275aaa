"""HTTP/1.1 to one server over connections that are kept, each request with one deadline for all of it.

``http.client`` and not a library: those that are installed anyway bound each read from the socket, not the whole
answer, so a server that sends a byte now and then would hold up decisions for ever.
"""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from fraudml.errors import ConfigError, ModelServerError

SETTING = "FRAUDML_MODEL_SERVER_URL"
MOST_BYTES = 64 * 2**20  # of an answer
UNAVAILABLE = (502, 503, 504)  # of a proxy, or one replica of several: another may answer
_DROPPED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.BadStatusLine)
Addresses = list[tuple[Any, ...]]


class Address(NamedTuple):
    """Where a server is, and what it is told of who asks; ``path`` has no slash at its end."""

    host: str
    port: int
    path: str
    secure: bool
    headers: Mapping[str, str]

    @property
    def place(self) -> str:
        """For people; holds no secret."""
        return f"{self.host}:{self.port}{self.path}"


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def address(url: str) -> Address:
    """The parts of a URL; raises ConfigError, which never repeats it.

    A user and password are sent as such, a password alone as a bearer token.

    >>> found = address("http://:secret@localhost:8080/v2/models/fraud/")
    >>> found.place, dict(found.headers)
    ('localhost:8080/v2/models/fraud', {'Authorization': 'Bearer secret'})
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(f"{SETTING} is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{SETTING} has to be like http://host:8080/v2/models/fraud, or https")
    headers = {}
    if parts.password is not None:
        user, password = unquote(parts.username or ""), unquote(parts.password)
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {basic}" if user else f"Bearer {password}"
    secure = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"), secure, headers)


class Client:
    """Safe for use by several threads; each request has a connection for itself."""

    def __init__(self, server: Address, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._idle: deque[_Connection] = deque()
        # looked up when a connection fails, not for every one: a lookup has no deadline
        self._addresses: Addresses | None = None
        self._tls = ssl.create_default_context() if server.secure else None
        weakref.finalize(self, _close, self._idle)

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """The answer, whatever its status; raises ModelServerError.

        Only for requests that may be repeated: where a connection broke, or a replica is unavailable, it is sent again,
        once and within the same deadline.
        """
        until = time.monotonic() + self._timeout_s
        try:
            answer = self._once(until, method, path, body, headers or {})
            if answer is None or answer.status in UNAVAILABLE:
                again = self._once(until, method, path, body, headers or {}, fresh=True)
                answer = again or answer
        except TimeoutError:
            raise ModelServerError(
                "it did not answer within FRAUDML_MODEL_SERVER_TIMEOUT_MS; see whether it is overloaded or out of reach"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ModelServerError(
                f"it cannot be asked ({_short(error)}); see whether it runs, and {SETTING}"
            ) from error
        if answer is None:
            raise ModelServerError("it breaks connections off; see its log")
        return answer

    def _once(
        self, until: float, method: str, path: str, body: bytes, headers: Mapping[str, str], *, fresh: bool = False
    ) -> Answer | None:
        """The answer; ``None`` when the connection broke. ``fresh``: over a new connection; those kept are closed."""
        if fresh:
            _close(self._idle)
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect(until)
        try:
            answer = connection.ask(until, method, path, body, {**self._server.headers, **headers})
        except BaseException as error:
            connection.close()
            if isinstance(error, _DROPPED):
                return None
            raise
        if connection.sock is not None:  # the server keeps it, too
            self._idle.append(connection)
        return answer

    def _connect(self, until: float) -> _Connection:
        server = self._server
        if self._addresses is None:
            self._addresses = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        try:
            return _Connection(server, self._addresses, self._tls, until)
        except OSError:
            self._addresses = None
            raise


class _Connection(http.client.HTTPConnection):
    """One connection whose reads all end by one deadline."""

    def __init__(self, server: Address, addresses: Addresses, tls: ssl.SSLContext | None, until: float) -> None:
        super().__init__(server.host, server.port)
        self._until = until
        self.sock = _connected(addresses, until)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            try:
                self.sock.settimeout(_left(until))
                self.sock = tls.wrap_socket(self.sock, server_hostname=server.host)
            except BaseException:
                self.close()
                raise

    def response_class(self, sock: socket.socket, **given: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """What ``getresponse`` reads the answer with."""
        return http.client.HTTPResponse(_Timed(sock, self._until), **given)  # type: ignore[arg-type]

    def ask(self, until: float, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One request and its whole answer."""
        self._until = until
        self.sock.settimeout(_left(until))
        self.request(method, path, body or None, dict(headers))
        with self.getresponse() as response:
            content = response.read(MOST_BYTES)
            if not response.isclosed() and response.read(1):
                raise http.client.HTTPException(f"the answer has more than {MOST_BYTES} bytes")
            return Answer(response.status, response.headers, content)


class _Timed(io.RawIOBase):
    """Reads of a socket that all end by one deadline; for ``HTTPResponse`` it is the socket."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock, self._until = sock, until
        self._raw = sock.makefile("rb", buffering=0)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What is read from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See ``io.RawIOBase``; raises TimeoutError."""
        self._sock.settimeout(_left(self._until))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """See ``io.IOBase``."""
        self._raw.close()
        super().close()


def _connected(addresses: Addresses, until: float) -> socket.socket:
    """A connection to the first address that takes it."""
    failure: OSError = OSError("its name has no address")
    for family, kind, protocol, _, place in addresses:
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_left(until))
            made.connect(place)
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    raise failure


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _close(connections: deque[_Connection]) -> None:
    while connections:
        try:
            connections.pop().close()
        except IndexError:  # another thread was first
            return


def _short(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.splitlines()[0][:200].rstrip(".") if text else type(error).__name__
