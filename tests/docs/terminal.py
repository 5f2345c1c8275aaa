"""A terminal for the documentation's commands: processes in a directory of their own, and a real service.

What is written for readers is changed in four places only: files are smaller, one model family is enough, services
listen on ports that the system chose, :data:`DATABASE`, :data:`REDIS`, :data:`KAFKA` and :data:`WAREHOUSE` are servers
of the test, and :data:`LAKE` is a directory of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, words
from tests.support import prepared

COMMAND_WITHIN_S = 600  # only against hanging
SMALL = {
    "simulate": "--rows 6000 --days 100 --fraud-rate 0.1",
    "train": "--family logistic_regression",
    "bench": "--seconds 1 --warmup 0.3",
}
# Not run: what sets up the environment the tests already run in, and what tests/acceptance/test_demo.py runs.
NOT_RUN = {"make", "source", "git"}
ADDRESS = "127.0.0.1:8000"
PLACEHOLDER = "fml_your_key"
DATABASE = "postgresql://fraudml@localhost/fraudml"
REDIS = "redis://localhost:6379/0"
KAFKA = "localhost:9092"
LAKE = "/data/lake"
WAREHOUSE = "snowflake://fraudml@acme-prod/RISK/FRAUD?warehouse=LOAD_WH"
_EXPORT = re.compile(r"export (FRAUDML_\w+)=(\S+)$")
# An error answer shall fail the command, as it would mislead a reader.
_STRICT_CURL = 'curl() { command curl --fail-with-body --noproxy "*" "$@"; }\n'


class Terminal:
    """Runs commands in a directory; :meth:`close` ends the service if one was started.

    ``servers``: what stands for :data:`DATABASE` and its like. ``export FRAUDML_X=...`` holds for all that
    follows; a second ``fraudml serve`` begins with the end of the first.
    """

    def __init__(self, directory: Path, servers: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.ran: list[str] = []
        self._workers: list[subprocess.Popen[str]] = []
        self._servers = servers or {}
        self._exported: dict[str, str] = {}
        self._service: subprocess.Popen[str] | None = None
        self._address = ADDRESS
        self._key = PLACEHOLDER
        shim = directory.parent / "bin"
        shim.mkdir(exist_ok=True)
        self._path = os.pathsep.join([str(shim), str(Path(sys.executable).parent), os.environ["PATH"]])
        _script(shim / "fraudml", f'#!/bin/sh\nexec {shlex.join(prepared.command())} "$@"\n')
        if shutil.which("curl") is None:
            script = (ROOT / "tests" / "docs" / "curl.py").read_text(encoding="utf-8")
            _script(shim / "curl", f"#!{sys.executable}\n{script}")

    def type(self, command: str) -> None:
        """Run what a page says; fails the test when the command fails."""
        first = words(command)[:2]
        if first[0] == "make":
            _check_targets(words(command)[1:])
        if first[0] in NOT_RUN or first == ["fraudml", "demo"]:
            return
        if first == ["fraudml", "serve"]:
            self._serve()
            return
        if first == ["fraudml", "worker"]:
            self._work(command)
            return
        if first == ["fraudml", "migrate"]:
            self.close()  # the page says to stop the service
        command = self._made_small(command)
        if export := _EXPORT.match(command):
            self._exported[export[1]] = export[2]
            return
        self.run(command)

    def run(self, command: str) -> None:
        """Run a command to its end; a non-zero exit code fails the test."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", _STRICT_CURL + command],
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        self.ran.append(command)

    def close(self) -> None:
        """End the service, and workers."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.communicate(timeout=60)
        self._workers.clear()
        if self._service is not None:
            self._service.terminate()
            self._service.communicate(timeout=30)
            self._service = None

    def _made_small(self, command: str) -> str:
        for name, options in SMALL.items():
            # at the end, so that they win over what the page says; not into the comment
            if words(command)[:2] == ["fraudml", name]:
                command = command.partition("  #")[0] + " " + options
        for name, server in self._servers.items():
            command = command.replace(name, server)
        return command.replace(ADDRESS, self._address).replace(PLACEHOLDER, self._key)

    def _serve(self) -> None:
        """Start the service as the page says, and return when it has told its address and, the first time, a key."""
        self.close()
        with (self.directory / "serve.log").open("w") as log:
            self._service = subprocess.Popen(
                [*prepared.command(), "serve", "--port", "0"],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        said = ""
        assert self._service.stdout is not None
        for line in self._service.stdout:
            said += line
            if line.startswith("curl ") or (self._key != PLACEHOLDER and "serves on" in line):
                break
        address, key = re.search(r"127\.0\.0\.1:\d+", said), re.search(r"fml_[\w-]{30,}", said)
        why = said + (self.directory / "serve.log").read_text(encoding="utf-8")
        assert address is not None, why
        self._address = address[0]
        self.ran.append("fraudml serve")
        if key is not None:
            self._key = key[0]
            self.run(line)  # the ready-to-paste command works; it also waits until the service answers
        assert self._key != PLACEHOLDER, why

    def _work(self, command: str) -> None:
        """Start a worker as the page says, and return when it has told where its health is."""
        with (self.directory / "worker.log").open("a") as log:
            worker = subprocess.Popen(
                [*prepared.command(), *words(command)[1:], "--port", "0"],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._workers.append(worker)
        assert worker.stdout is not None
        said = next((line for line in worker.stdout if "decides on" in line), None)
        assert said is not None, (self.directory / "worker.log").read_text(encoding="utf-8")
        self.ran.append(command)

    def _environment(self) -> dict[str, str]:
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FRAUDML_THREADS": "1"}
        return os.environ | single | self._exported | {"PATH": self._path, "KEY": self._key, "PYTHONUNBUFFERED": "1"}


def _script(place: Path, text: str) -> None:
    place.write_text(text, encoding="utf-8")
    place.chmod(0o755)


def _check_targets(arguments: list[str]) -> None:
    """The targets of a ``make`` command are in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {argument for argument in arguments if "=" not in argument} <= targets
