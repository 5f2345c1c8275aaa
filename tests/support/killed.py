"""``fraudml`` in processes that end themselves by SIGKILL at a chosen step; run as ``python -m tests.support.killed``.

A step is a call by which something on a disk changes for others: a file comes to its place, becomes durable, or goes.
For each line of standard input, ``[directory, step, [arguments]]``, a fork runs the command and is killed just before
that step. The answer is how the process ended and how many steps it did: ``[code, steps]``.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# What the command imports, so that a fork has not to.
IMPORTED = (
    "pandas",  # pyarrow looks for it
    "pyarrow.parquet",
    "fsspec.implementations.local",
    "fraudml.adapters.log.sqlite",
    "fraudml.adapters.connections.files",
    "fraudml.adapters.warehouse.parquet",
    "fraudml.cli.main",
    "fraudml.cli.repeating",
    "fraudml.cli.warehouse",
    "fraudml.operations.sync",
)
STEPS = ("fsync", "link", "replace", "unlink", "mkdir")


def main() -> None:
    for name in IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            run(write, *json.loads(line))
        os.close(write)
        _, status = os.waitpid(child, 0)
        with os.fdopen(read, "rb") as steps:
            sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), len(steps.read())]) + "\n")
        sys.stdout.flush()


def run(told: int, directory: str, last: int, arguments: list[str]) -> None:
    from fraudml.cli.main import run

    done = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(told, b".")
            return call(*given, **named)

        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    os.chdir(directory)
    sys.argv = ["fraudml", *arguments]
    sys.stdout = sys.stderr
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
