"""A TimescaleDB for tests: PostgreSQL 17 and the extension, compiled to WebAssembly, run by Node.js.

It has one session behind all connections (see ``server.mjs``), so what needs two at once cannot be tested there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from tests.support.servers.postgres import execute, new_database
from tests.support.servers.process import LOOPBACK, ServerProcess, free_port, own_folder

HERE = Path(__file__).parent
NO_NODE = "no Node.js for TimescaleDB"
INSTALL_S = 300.0
# What a test made: the views first, as tables go with what is made of them.
_MADE = """
SELECT format('DROP %s IF EXISTS %s CASCADE', kind, name) FROM (
    SELECT 1 AS nth, 'MATERIALIZED VIEW' AS kind, format('%I.%I', view_schema, view_name) AS name
        FROM timescaledb_information.continuous_aggregates
    UNION ALL SELECT 2, 'VIEW', format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'public'
    UNION ALL SELECT 3, 'TABLE', format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'
    UNION ALL SELECT 4, CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, oid::regprocedure::text
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'fraudml%'
) AS made ORDER BY nth
"""


class TimescaleServer:
    """A server, and databases on it. One of our own has one database, which is emptied."""

    def __init__(self, url: str, process: ServerProcess | None = None) -> None:
        self._url, self._process = url, process
        self.one_session = process is not None

    def new_database(self) -> str:
        """The URL of an empty database with the extension."""
        if self._process is None:
            url = new_database(self._url)
            execute(url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
            return url
        execute(self._url, "CREATE EXTENSION IF NOT EXISTS timescaledb", "SET client_min_messages = warning")
        jobs = "SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        execute(self._url, jobs, *(str(drop) for (drop,) in execute(self._url, _MADE)))
        return self._url


@contextmanager
def server() -> Iterator[TimescaleServer]:
    """The one that ``FRAUDML_TEST_TIMESCALE_URL`` names, or one of our own; a skip without Node.js."""
    if given := os.environ.get("FRAUDML_TEST_TIMESCALE_URL"):
        yield TimescaleServer(given)
        return
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(NO_NODE)
    folder, port = own_folder(None), free_port()
    url = f"postgresql://postgres:x@{LOOPBACK}:{port}/template1?sslmode=disable&gssencmode=disable"

    def answers() -> None:
        psycopg.connect(url, connect_timeout=5).close()

    process = ServerProcess([node, str(installed(npm) / "server.mjs"), str(port)], folder, answers, None)
    process.start()
    try:
        yield TimescaleServer(url, process)
    finally:
        process.kill()
        shutil.rmtree(folder)


def installed(npm: str) -> Path:
    """The folder with the server and its packages: installed once for each of their versions, beside other caches."""
    wanted = (HERE / "package.json").read_bytes()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "fraudml-tests" / f"timescale-{sha256(wanted).hexdigest()[:12]}"
    if not (folder / "installed").exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "package.json").write_bytes(wanted)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(command, cwd=draft, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        assert done.returncode == 0, f"npm install failed:\n{done.stderr}"
        (draft / "installed").touch()
        try:
            draft.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    shutil.copyfile(HERE / "server.mjs", folder / "server.mjs")
    return folder
