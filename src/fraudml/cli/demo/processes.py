"""The demo's child processes: commands that run to their end, and the service, which is ended on every way out."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from fraudml.cli import output
from fraudml.cli.demo.client import Client
from fraudml.errors import FraudmlError

FRAUDML: Sequence[str] = (sys.executable, "-m", "fraudml")
READY_WITHIN_S = 120.0
STOPS_WITHIN_S = 20.0
POLL_S = 0.05
# What asks a program to end; SIGHUP (the terminal was closed) is not known everywhere.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Commands:
    """Runs ``fraudml`` commands in a directory, as a user would, and shows what is typed.

    ``environment``: without the user's own FRAUDML settings, which may name a real database.
    """

    directory: Path
    environment: Mapping[str, str]
    quiet: bool = False

    def run(self, *arguments: str) -> None:
        """Run a command whose output the user sees; raises FraudmlError when it fails."""
        self.say(*arguments)
        # with --json the demo's own result is all that may be on standard output
        with self._child(arguments, stdout=sys.stderr if self.quiet else None) as process:
            code = process.wait()
        if code:
            raise _failed(arguments, code)

    def ask(self, *arguments: str) -> Any:
        """The JSON result of a command, whatever its exit code."""
        with self._child([*arguments, "--json"], stdout=subprocess.PIPE) as process:
            text, _ = process.communicate()
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise _failed(arguments, process.returncode) from None

    def say(self, *arguments: str) -> None:
        """Show a command as a user would type it."""
        output.remarks.print(f"[bold green]$[/] [bold]{_words(arguments)}[/]", soft_wrap=True)

    @contextmanager
    def serve(self, port: int) -> Iterator[Service]:
        """The service as a process of its own, ready; it is ended when the block ends, however that happens."""
        arguments = ["serve", "--port", str(port)]
        self.say(*arguments)
        log = self.directory / "serve.log"
        # in a session of its own Ctrl-C reaches the demo alone, which ends the service in order
        with (
            log.open("wb") as sink,
            self._child(arguments, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True) as process,
        ):
            service = Service(process, log)
            service.wait_until_ready()
            yield service

    @contextmanager
    def _child(self, arguments: Sequence[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        process = None
        try:
            with _signals_wait():
                process = subprocess.Popen(  # noqa: S603
                    [*FRAUDML, *arguments],
                    cwd=self.directory,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    **streams,
                )
            yield process
        finally:
            if process is not None:
                _end(process)


class Service:
    """A running ``fraudml serve``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Return when the service says it is ready; raises FraudmlError when it ends or takes too long."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self.ended()
            if not self.port:
                found = _ADDRESS.search(self.log.read_text(encoding="utf-8", errors="replace"))
                self.port = int(found[1]) if found else 0
            if self.port and Client(self.port).ready():
                return
            time.sleep(POLL_S)
        raise FraudmlError(f"the service was not ready within {READY_WITHIN_S:.0f} s; see {self.log}")

    def ended(self) -> FraudmlError:
        """The error for a service that ended by itself."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        return FraudmlError(f"the service ended by itself with exit code {self.process.returncode}: {last}")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that every child is ended."""
    with _handled_by(_unwind, [number for number in ENDING if number != signal.SIGINT]):
        yield


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Inside, signals wait: one that unwinds the stack while a child starts would leave a child nobody knows of."""
    came: list[int] = []
    with _handled_by(lambda number, frame: came.append(number), ENDING):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Callable[[int, Any], Any], numbers: Sequence[int]) -> Iterator[None]:
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler_before in zip(numbers, before, strict=True):
            signal.signal(number, handler_before)


def _unwind(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, by force when it takes long or when we are interrupted once more."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        pass  # what follows ends it
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _failed(arguments: Sequence[str], code: int) -> FraudmlError:
    return FraudmlError(f"this step ended with exit code {code}: {_words(arguments)}")


def _words(arguments: Sequence[str]) -> str:
    return shlex.join(["fraudml", *arguments])
