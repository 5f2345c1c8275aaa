"""A server process of a test: started on a port that the system chose, stopped, killed, started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

START_S = 60.0
LOOPBACK = "127.0.0.1"


class ServerProcess:
    """One process. ``ready`` raises while the server does not answer yet. ``user``: whom root starts it as."""

    def __init__(self, command: Sequence[str], folder: Path, ready: Callable[[], None], user: str | None) -> None:
        self._command, self._folder, self._ready, self._user = list(command), folder, ready, user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def output(self) -> str:
        """What the server said since it was made."""
        return (self._folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder, user=self._user)
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """After a start, or after a crash that the server recovers from by itself."""
        assert self._process is not None, "the server does not run"
        until = time.monotonic() + START_S
        while True:
            assert self._process.poll() is None, f"the server ended:\n{self.output}"
            try:
                self._ready()
            except Exception:
                assert time.monotonic() < until, f"the server does not answer:\n{self.output}"
                time.sleep(0.02)
            else:
                return

    def send(self, number: signal.Signals) -> None:
        """Send a signal; SIGSTOP makes it a server that hangs, SIGCONT ends that."""
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait for the end; nothing when it does not run."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(30)
        self._process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        self.stop(signal.SIGKILL)


def unprivileged() -> str | None:
    """Whom a server runs as that refuses to run as root; ``None`` when this is not root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def own_folder(user: str | None) -> Path:
    """A fresh folder for a server's data; pytest's own lie below one that only root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fraudml-server-"))
    if user is not None:
        shutil.chown(folder, user)
    return folder


def free_port() -> int:
    """A port that nobody listened on just now: these servers cannot tell which one they chose."""
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        return int(bound.getsockname()[1])
