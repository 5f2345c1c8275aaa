"""The real ``fraudml serve`` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support import prepared

ADDRESS = re.compile(r"serves on (http://127\.0\.0\.1:\d+)")


class Running:
    """A ``fraudml serve`` that answers, and what it said."""

    def __init__(self, process: subprocess.Popen[str], said: list[str], address: str, killed_by: int) -> None:
        self.process = process
        self._killed_by = killed_by
        self.said = said
        self.address = address

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.process.send_signal(self._killed_by)
        self.process.wait()

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"X-API-Key": key}, timeout=30, verify=False)  # noqa: S501


@contextmanager
def serving(directory: Path, *, as_users_do: bool = False, **settings: str) -> Iterator[Running]:
    """The service with these settings (``redis_url=...``), from the moment it says where it listens.

    ``as_users_do``: it begins with nothing imported, and ``process`` is the service itself.
    """
    program = (sys.executable, "-m", "fraudml") if as_users_do else prepared.command()
    killed_by = signal.SIGKILL if as_users_do else signal.SIGQUIT
    command = [*program, "serve", "--port", "0"]
    environment = os.environ | {f"FRAUDML_{name.upper()}": value for name, value in settings.items()}
    with (
        (directory / "serve.err").open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            said: list[str] = []
            found: re.Match[str] | None = None
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.strip())
                if found := ADDRESS.search(line):
                    break
            assert found, (directory / "serve.err").read_text(encoding="utf-8")
            yield Running(process, said, found[1], killed_by)
        finally:
            process.send_signal(killed_by)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def an_example(client: httpx.Client) -> dict[str, Any]:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    example: dict[str, Any] = body["example"]
    return example
