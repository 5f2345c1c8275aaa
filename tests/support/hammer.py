"""Full load from this process: every connection sends its next transaction as soon as it is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fraudml.cli.bench.wire import Connection


class Hammer:
    """Sends rows until the server is gone. ``sent`` and ``acknowledged``: what by id; ``enough`` is set when so many
    were acknowledged; ``refused`` are answers other than 200."""

    def __init__(self, port: int, key: str, rows: Iterator[tuple[str, dict[str, Any]]], enough: int) -> None:
        self.sent: dict[str, dict[str, Any]] = {}
        self.acknowledged: dict[str, bytes] = {}
        self.refused: list[bytes] = []
        self.enough = threading.Event()
        self._port, self._rows, self._enough = port, rows, enough
        self._head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: "
        self._under_way: dict[Connection, str] = {}
        self._left = 0

    def wait_for(self, more: int) -> None:
        """Until so many more were acknowledged."""
        self.enough.clear()
        self._enough = len(self.acknowledged) + more
        assert self.enough.wait(120)

    def run(self, connections: int) -> None:
        """Until every connection is lost."""
        asyncio.run(self._run(connections))

    async def _run(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._left = connections
        make: Callable[[], Connection] = lambda: Connection(self)  # noqa: E731 - asyncio wants a factory
        await asyncio.gather(*(loop.create_connection(make, "127.0.0.1", self._port) for _ in range(connections)))
        await self._gone.wait()

    def opened(self, connection: Connection) -> None:
        self._send(connection)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        name = self._under_way.pop(connection)
        if status == 200:
            self.acknowledged[name] = body
        else:
            self.refused.append(body)
        if len(self.acknowledged) >= self._enough:
            self.enough.set()
        self._send(connection)

    def lost(self, connection: Connection, reason: str) -> None:
        self._left -= 1
        if not self._left:
            self._gone.set()

    def _send(self, connection: Connection) -> None:
        name, row = next(self._rows)
        self.sent[name] = row
        self._under_way[connection] = name
        body = msgspec.json.encode(row)
        connection.send(f"{self._head}{len(body)}\r\n\r\n".encode() + body, 0.0)
