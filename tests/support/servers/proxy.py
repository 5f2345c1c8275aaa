"""A TCP proxy in front of a server: a network that swallows packets, or breaks at the worst moment."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.support.servers.process import LOOPBACK


class Proxy:
    """Passes on what clients of ``port`` say to a server, and what it answers.

    While ``swallows`` is set nothing is passed on and nobody is told; a connection that lost something then is dead for
    good, though both sides believe in it. ``breaks`` is told what a client says, and whether the connection to the
    client breaks once it was passed on, so that the answer finds nobody; the server is not told of that.
    """

    def __init__(self, to_port: int) -> None:
        self.swallows = threading.Event()
        self.breaks: Callable[[bytes], bool] = lambda data: False
        self._to = (LOOPBACK, to_port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._start(self._accept)

    def close(self) -> None:
        """End it, with all connections."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, call: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=call, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                try:
                    server = socket.create_connection(self._to)
                except ConnectionRefusedError:
                    client.close()
                    continue
                self._open.append(server)
                self._start(self._pass, client, server, True)
                self._start(self._pass, server, client, False)

    def _pass(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        dead = False
        with suppress(OSError):
            while data := source.recv(65_536):
                dead = dead or self.swallows.is_set()
                if dead:
                    continue
                breaks = asks and self.breaks(data)
                target.sendall(data)
                if breaks:
                    source.shutdown(socket.SHUT_RDWR)
                    return
            if not dead:
                target.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(to_port: int) -> Iterator[Proxy]:
    """One that runs."""
    made = Proxy(to_port)
    try:
        yield made
    finally:
        made.close()
