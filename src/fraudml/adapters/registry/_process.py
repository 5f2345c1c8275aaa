"""The other side of ``apart.py``: a process that asks the registry what it is told to, and says what it heard."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from fraudml.adapters.registry._client import load_mlflow
from fraudml.adapters.registry.mlflow import MlflowRegistry
from fraudml.errors import FraudmlError
from fraudml.models.registry import Registry
from fraudml.models.rollout import Rollout

# Requests go first where there is only one core; a tenth of a busy one is enough for a question. The first, for which
# everything is imported, is not held up like that: a service that starts waits for it.
NICE = 10
# MLflow imports these where they are installed and goes without them where they are not. No answer needs them; they are
# a quarter of the time until the first one, and of the memory.
UNUSED = ("pandas", "pyspark")


class Opening(msgspec.Struct, frozen=True):
    """The first message: which registry. Not on the command line, for the ``url`` may hold credentials."""

    url: str | None
    home: str
    model_name: str


class Question(msgspec.Struct, frozen=True):
    """A call of the registry and what it is given; several may be under way."""

    number: int
    call: str
    given: list[Any]


class Failure(msgspec.Struct, frozen=True):
    """An error by its name in :mod:`fraudml.errors`; without one nobody has foreseen it, and ``text`` is where."""

    kind: str | None
    text: str


class Answer(msgspec.Struct, frozen=True):
    """What a call gave, or its error."""

    number: int
    result: msgspec.Raw
    failure: Failure | None = None


_encode = msgspec.msgpack.Encoder(enc_hook=str).encode  # of what it does not know there are only paths


def main() -> None:
    """Answer until there are no more questions. Standard input is a socket to who asks, both ways."""
    connection = Connection(0)
    opening = msgspec.msgpack.decode(connection.recv_bytes(), type=Opening)
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # so an import says that it is not there
    threading.Thread(target=_prepare, daemon=True).start()  # an end is seen at once, also while it imports
    calls = _calls(MlflowRegistry(opening.url, home=Path(opening.home), model_name=opening.model_name))
    one_at_a_time = threading.Lock()

    def answer(question: Question) -> None:
        message = _encode(_answer(calls, question))
        with one_at_a_time, suppress(OSError):  # then nobody listens any more
            connection.send_bytes(message)

    with suppress(EOFError, OSError):
        while message := connection.recv_bytes():  # an empty one is the last
            question = msgspec.msgpack.decode(message, type=Question)
            threading.Thread(target=answer, args=(question,), daemon=True).start()
            if question.number == 0:
                with suppress(OSError):
                    os.nice(NICE)  # of this thread, and so of those that it starts from now on
    os._exit(0)  # at once: what hangs here would keep the interpreter from ending


def _prepare() -> None:
    with suppress(Exception):  # the first question comes to the same, and tells
        load_mlflow()


def _calls(registry: Registry) -> dict[str, Callable[..., Any]]:
    """The port's calls as they come over the wire."""

    def register(directory: str, report: str | None, aliases: list[str]) -> Any:
        return registry.register(Path(directory), report=Path(report) if report else None, aliases=tuple(aliases))

    return {
        "register": register,
        "versions": registry.versions,
        "resolve": registry.resolve,
        "fetch": registry.fetch,
        "rollouts_after": lambda known: registry.rollouts()[known:],
        "revise": lambda rollout: registry.revise(msgspec.convert(rollout, Rollout)),
        "delete": registry.delete,
    }


def _answer(calls: dict[str, Callable[..., Any]], question: Question) -> Answer:
    try:
        return Answer(question.number, msgspec.Raw(_encode(calls[question.call](*question.given))))
    except FraudmlError as error:
        failure = Failure(type(error).__name__, str(error))
    except BaseException:  # of any kind, raised again over there: without an answer who asked would wait for ever
        failure = Failure(None, traceback.format_exc())
    return Answer(question.number, msgspec.Raw(_encode(None)), failure)


if __name__ == "__main__":
    main()
