"""A worker that is killed, or stopped, at one step of its loop; run as a program by ``test_worker_killed``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import msgspec

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.stream import producer
from fraudml.adapters.stream.kafka import KafkaStream
from fraudml.adapters.stream.producer import TransactionalProducer
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from tests.support.scoring import SCHEMA
from tests.support.streaming import InProcess, Topics

SIGNAL = "KILLED_WORKER_BY"  # a number in the environment
# What is done, and whether the worker dies before or after it.
STEPS: dict[str, tuple[Any, str, bool]] = {
    "read": (KafkaStream, "read", True),
    "decided": (Scorer, "decide", True),
    "before the log": (Recorder, "commit", False),
    "logged": (Recorder, "commit", True),
    "publishing": (TransactionalProducer, "_publish", True),
    "published": (None, "", False),  # in the driver, see killed()
    "before the end": (None, "", False),
    "committed": (TransactionalProducer, "commit", True),
}


def die() -> None:
    """Or stop, to go on later."""
    os.kill(os.getpid(), int(os.environ.get(SIGNAL, signal.SIGKILL)))


def killed(step: str, driver: Any) -> Any:
    """The driver's producer, or one that dies when a transaction has been published, or is about to end."""

    class Dying(driver):  # type: ignore[misc]
        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if step == "published":
                self.flush(30)
                die()
            super().send_offsets_to_transaction(*arguments)

        def commit_transaction(self, *arguments: Any) -> None:
            if step == "before the end":
                self.flush(30)
                die()
            super().commit_transaction(*arguments)

    return Dying


def main(step: str, database: str, names: str, after: int) -> None:
    """Work until the step has been taken with messages in hand for the ``after``-th time."""
    owner, method, afterwards = STEPS[step]
    if owner is None:
        producer.Producer = killed(step, producer.Producer)  # type: ignore[misc]
    else:
        real, times = getattr(owner, method), 0

        def step_and_die(self: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal times
            if not afterwards:
                times += 1
                if times == after:
                    die()
            result = real(self, *arguments, **named)
            if afterwards and (method != "read" or result):
                times += 1
                if times == after:
                    die()
            return result

        setattr(owner, method, step_and_die)
    topics = Topics.__new__(Topics)
    topics.__dict__ |= msgspec.json.decode(names)
    worker = InProcess(SqliteDecisionLog(database, SCHEMA), topics, worker_batch=7).worker
    worker.ending.wait()
    worker.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
