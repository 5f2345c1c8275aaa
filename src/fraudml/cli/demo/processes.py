"""The demo's child processes: commands that run to their end, and the service, which is ended on every way out."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from fraudml.cli import output
from fraudml.cli.demo.client import Client
from fraudml.errors import FraudmlError

READY_WITHIN_S = 120.0
STOPS_WITHIN_S = 20.0
POLL_S = 0.05
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
        done = subprocess.run(  # noqa: S603
            _typed(arguments),
            cwd=self.directory,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if self.quiet else None,
        )
        if done.returncode:
            raise FraudmlError(f"this step ended with exit code {done.returncode}: {_words(arguments)}")

    def ask(self, *arguments: str) -> tuple[int, Any]:
        """The exit code and JSON result of a command."""
        done = subprocess.run(  # noqa: S603
            _typed([*arguments, "--json"]),
            cwd=self.directory,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            return done.returncode, msgspec.json.decode(done.stdout)
        except msgspec.DecodeError:
            raise FraudmlError(f"this step ended with exit code {done.returncode}: {_words(arguments)}") from None

    def say(self, *arguments: str) -> None:
        """Show a command as a user would type it."""
        output.remarks.print(f"[bold green]$[/] [bold]{_words(arguments)}[/]", soft_wrap=True)

    @contextmanager
    def serve(self, port: int) -> Iterator[Service]:
        """The service as a process of its own, ready; it is ended when the block ends, however that happens."""
        arguments = ["serve", "--port", str(port)]
        self.say(*arguments)
        log = self.directory / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603
                _typed(arguments),
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which ends the service in order
            )
        service = Service(process, log)
        try:
            service.wait_until_ready()
            yield service
        finally:
            service.stop()


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

    def stop(self) -> int:
        """End the process, by force when it does not end by itself; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def ended(self) -> FraudmlError:
        """The error for a service that ended by itself."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        return FraudmlError(f"the service ended by itself with exit code {self.process.returncode}: {last}")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that every child is ended."""
    caught = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(number, _unwind) for number in caught]
    try:
        yield
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)


def _unwind(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _typed(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "fraudml", *arguments]


def _words(arguments: Sequence[str]) -> str:
    return shlex.join(["fraudml", *arguments])
