"""The registry in a process of its own, for a service: MLflow's client would take the interpreter from requests.

One question costs MLflow some 7 ms of computing, and a download more. Whoever waits for the interpreter meanwhile
answers late, however many cores there are; another process, of low priority, is in nobody's way.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from fraudml.adapters.registry._process import Answer, Failure, Opening, Question
from fraudml.adapters.registry.mlflow import MlflowRegistry
from fraudml.errors import BundleError, ConfigError, ConflictError, FraudmlError, NotFoundError, RegistryError
from fraudml.models.registry import ModelVersion
from fraudml.models.rollout import Rollout

T = TypeVar("T")

STOP_S = 5.0
_KINDS = {kind.__name__: kind for kind in (BundleError, ConfigError, ConflictError, NotFoundError, RegistryError)}


class RegistryApart:
    """The registry port over an ``MlflowRegistry`` in another process, which is started when it is first asked
    or told to.

    It ends with this process. When it ends by itself what is under way fails with RegistryError, and the next call
    starts it anew. Several threads may call at once; a call that hangs holds up no other.
    """

    # -P: no file in the user's directory is taken for a library
    command: ClassVar[Sequence[str]] = (sys.executable, "-P", "-m", "fraudml.adapters.registry._process")

    def __init__(self, url: str | None, *, home: Path, model_name: str) -> None:
        self._here = MlflowRegistry(url, home=home, model_name=model_name)  # opens nothing until it is asked
        self._opening = Opening(url, str(home.absolute()), model_name)
        self._process: _Process | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process now, not when it is first asked: it imports for some seconds, and so does a service."""
        self._started()

    def register(self, directory: Path, *, report: Path | None = None, aliases: tuple[str, ...] = ()) -> ModelVersion:
        """Store a bundle as the next version."""
        given = (str(directory.absolute()), None if report is None else str(report.absolute()), aliases)
        return self._started().call(ModelVersion, "register", *given)

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        return self._started().call(list[ModelVersion], "versions")

    def resolve(self, name: str) -> ModelVersion:
        """The version of an alias or number; raises NotFoundError."""
        return self._started().call(ModelVersion, "resolve", name)

    def fetch(self, version: int) -> Path:
        """A local copy of a version's bundle."""
        return Path(self._started().call(str, "fetch", version))

    def kept(self, version: int) -> Path | None:
        """The local copy that an earlier :meth:`fetch` has left, if it is whole."""
        return self._here.kept(version)

    def rollouts(self) -> list[Rollout]:
        """Every revision of the rollout document, oldest first. Those that are known are not sent again."""
        process = self._started()
        known = process.known
        known = [*known, *process.call(list[Rollout], "rollouts_after", len(known))]
        process.known = known  # of two threads the slower one may have fewer: then some are sent twice
        return known

    def revise(self, rollout: Rollout) -> Rollout:
        """Store the next revision; raises ConflictError."""
        return self._started().call(Rollout, "revise", rollout)

    def delete(self, version: int) -> None:
        """Delete a version and its files."""
        self._started().call(type(None), "delete", version)

    def close(self) -> None:
        """End the process, and with it what is under way there."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _started(self) -> _Process:
        with self._lock:
            if self._process is None or self._process.ended:
                self._process = _Process(self.command, self._opening)
            return self._process


class _Process:
    """The running process; ``known`` are the revisions that it has sent."""

    def __init__(self, command: Sequence[str], opening: Opening) -> None:
        self.known: list[Rollout] = []
        self.ended = False
        self._lock = threading.Lock()
        self._numbers = count()
        self._waiting: dict[int, Future[Answer]] = {}
        self._connection, theirs = Pipe()
        with theirs:
            try:
                # What a library prints goes to standard error. Ctrl-C is for us alone; no session of its own, though:
                # between those Linux shares a core evenly, whatever the priorities (man 7 sched: autogroups).
                self._popen = subprocess.Popen(command, stdin=theirs.fileno(), stdout=2, process_group=0)  # noqa: S603
            except OSError as error:
                self._connection.close()
                raise RegistryError(f"the process that asks the model registry cannot be started: {error}") from error
        self._send(opening)
        threading.Thread(target=self._read, name="registry-answers", daemon=True).start()

    def call(self, kind: type[T], call: str, *given: Any) -> T:
        """What a call gives, as ``kind``; raises its error."""
        future: Future[Answer] = Future()
        with self._lock:
            if self.ended:
                raise self._gone()
            question = Question(next(self._numbers), call, list(given))
            self._waiting[question.number] = future
            self._send(question)
        answer = future.result()
        if answer.failure is not None:
            raise _error(answer.failure)
        return msgspec.msgpack.decode(answer.result, type=kind)

    def close(self) -> None:
        """Let it end, and wait for that."""
        with self._lock, suppress(OSError):
            self._connection.send_bytes(b"")
        try:
            self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _send(self, message: Opening | Question) -> None:
        with suppress(OSError):  # it has ended: the thread that reads finds out, too, and tells who waits
            self._connection.send_bytes(msgspec.msgpack.encode(message))

    def _read(self) -> None:
        with suppress(EOFError, OSError, msgspec.MsgspecError):  # the last: it runs another release
            while True:
                answer = msgspec.msgpack.decode(self._connection.recv_bytes(), type=Answer)
                self._waiting.pop(answer.number).set_result(answer)
        self._popen.kill()
        self._popen.wait()
        with self._lock:
            self.ended = True
            self._connection.close()
            for future in self._waiting.values():
                future.set_exception(self._gone())

    def _gone(self) -> RegistryError:
        code = self._popen.returncode
        return RegistryError(f"the process that asks the model registry has ended (exit code {code})")


def _error(failure: Failure) -> Exception:
    if failure.kind is None:
        return RuntimeError(f"in the process that asks the model registry:\n{failure.text}")
    return _KINDS.get(failure.kind, FraudmlError)(failure.text)
