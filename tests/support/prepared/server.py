"""Imports what commands import, and forks for each of them. Ends with the process that runs the tests."""

from __future__ import annotations

import atexit
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import traceback
from functools import partial
from pathlib import Path

# Libraries with threads of their own must not have started them when a fork comes.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

SLOW = (
    "fraudml.cli.main",
    "fraudml.models.runtime",  # before its library: it says that nothing is sent home
    "onnxruntime",
    "fraudml.training.families.xgboost",
    "fraudml.training.families.random_forest",
    "fraudml.training.families.logistic_regression",
    "fraudml.cli.retrain_run",
    "fraudml.service.app",
    "fraudml.wiring",
    "fraudml.adapters.log.sqlite",
    "fraudml.adapters.offline.duckdb",
    "fraudml.adapters.source.files",
    "fraudml.adapters.source.profile",
    "fraudml.inference",
    "fraudml.simulation",
    "duckdb",
    "pyarrow.csv",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.utils.search_logged_model_utils",
    "markdown_it",
    "onnx",
    "rich._emoji_codes",
    "rich.columns",
    "sklearn.model_selection",
    "sqlglot.dialects.duckdb",
    "sqlglot.dialects.postgres",
)


def prepare(address: str, client: tuple[str, ...]) -> None:
    from fraudml.adapters.registry import _client, mlflow
    from fraudml.adapters.registry.apart import RegistryApart
    from fraudml.cli.demo import processes
    from fraudml.training.report import page
    from tests.support.training import make_result

    _client.load_mlflow()
    for name in SLOW:
        importlib.import_module(name)
    page.render(make_result())  # Matplotlib looks for its fonts, and reads the labels of its axes, once
    # What these commands start begins with everything imported, too.
    RegistryApart.command = (*client, "-m", RegistryApart.command[-1])
    processes.FRAUDML = client
    # MLflow computes for two seconds to make its file, each time the same one.
    made = Path(address).with_name("registry.db")
    _client.create_store(made)
    mlflow.create_store = partial(copied, made)


def copied(made: Path, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, path)


def serve(address: str, runs: int) -> None:
    ended = os.pidfd_open(runs)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for a command
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([listening, ended], [], [])
            if ended in ready:
                shutil.rmtree(Path(address).parent)
                return
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Run one command to its end, or until nobody waits for it any more."""
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    told = b""
    while len(told) < int.from_bytes(size, "big"):
        told += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        connection.close()
        run(*json.loads(told), files)
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended in ready:
            break
        asked_to_end = connection.recv(1)
        os.kill(child, asked_to_end[0] if asked_to_end else signal.SIGKILL)
        if not asked_to_end:
            break
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if ended in ready:
        connection.sendall(bytes([max(code, 0), max(-code, 0)]))
    os._exit(0)


def run(arguments: list[str], directory: str, environment: dict[str, str], files: list[int]) -> None:
    """As ``python -m fraudml`` would, or ``-m`` of another module that is named so."""
    module = "fraudml"
    if arguments[:1] == ["-m"]:
        _, module, *arguments = arguments
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    at_once = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8", "surrogateescape")
    out, err = (io.BufferedWriter(io.FileIO(number, "w", closefd=False)) for number in (1, 2))
    sys.stdout = io.TextIOWrapper(out, "utf-8", "surrogateescape", write_through=at_once)
    sys.stderr = io.TextIOWrapper(err, "utf-8", "backslashreplace", line_buffering=True)
    os.chdir(directory)
    os.environ.clear()
    os.environ |= environment
    sys.argv = [module, *arguments]
    if module != "fraudml":
        sys.modules.pop(module, None)  # it runs as it would in a process where nobody has imported it
    sys.path[0] = directory
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    prepare(sys.argv[2], tuple(sys.argv[3:]))
    serve(sys.argv[2], int(sys.argv[1]))
    os._exit(0)  # to let go of each object takes seconds
