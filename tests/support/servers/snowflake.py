"""An emulator of Snowflake for tests: fakesnow's HTTP server, which runs Snowflake's SQL in DuckDB.

The connector is the real one and speaks its own protocol. What an emulator cannot show: how Snowflake itself plans,
rounds, locks and fails.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from snowflake.connector import SnowflakeConnection

from tests.support.servers.process import LOOPBACK, ServerProcess, free_port

_numbers = itertools.count()
# Snowflake undoes the open transaction of a session that ends; fakesnow would keep it.
_PROGRAM = """
import contextlib, sys, duckdb, uvicorn, fakesnow.server

class Sessions(dict):
    def __delitem__(self, token):
        with contextlib.suppress(duckdb.TransactionException):  # there was none
            self[token]._duck_conn.rollback()
        super().__delitem__(token)

fakesnow.server.sessions = Sessions()
uvicorn.run(fakesnow.server.app, host=sys.argv[1], port=int(sys.argv[2]), log_level="warning")
"""


class SnowflakeServer:
    """An emulator in a process of its own; its databases end with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fraudml-server-"))
        self.port = free_port()
        command = [sys.executable, "-c", _PROGRAM, LOOPBACK, str(self.port)]
        self.process = ServerProcess(command, self.folder, self._answers, None)
        self.process.start()

    def new_database(self) -> str:
        """The URL of a fresh, empty schema."""
        name = f"T{os.getpid()}_{next(_numbers)}"
        words = f"host={LOOPBACK}&port={self.port}&protocol=http&network_timeout=5&login_timeout=5"
        return f"snowflake://fraudml:secret-of-the-tests@fakesnow/{name}/FRAUD?{words}"

    def close(self) -> None:
        """End it."""
        self.process.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> None:
        connection = HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", "/session")
            connection.getresponse().read()
        finally:
            connection.close()


def end_session(connection: SnowflakeConnection) -> None:
    """What happens in the server when a client is gone. The connector says goodbye only to sessions that can be
    renewed, which those of the emulator cannot."""
    rest = connection.rest
    http = HTTPConnection(LOOPBACK, rest._port, timeout=5)
    http.request("POST", "/session?delete=true", headers={"Authorization": f'Snowflake Token="{rest.token}"'})
    assert http.getresponse().status == 200
    http.close()


@contextmanager
def server() -> Iterator[SnowflakeServer]:
    """A server shared by tests that leave it as it is."""
    made = SnowflakeServer()
    try:
        yield made
    finally:
        made.close()
