"""A worker that is killed, or stopped, at one step of its loop, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from typing import Any

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.stream import producer
from fraudml.adapters.stream.kafka import KafkaStream
from fraudml.adapters.stream.producer import TransactionalProducer
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from tests.support.scoring import SCHEMA
from tests.support.streaming import InProcess, Topics

# What is done, and whether the worker dies before or after it.
STEPS: dict[str, tuple[Any, str, bool]] = {
    "read": (KafkaStream, "read", True),
    "decided": (Scorer, "decide", True),
    "before the log": (Recorder, "commit", False),
    "logged": (Recorder, "commit", True),
    "publishing": (TransactionalProducer, "_publish", True),
    "published": (None, "", False),  # in the driver, see dying()
    "before the end": (None, "", False),
    "committed": (TransactionalProducer, "commit", True),
}


def start(topics: Topics, database: str, step: str, number: signal.Signals, after: int) -> ForkServerProcess:
    """A worker that gets the signal when it takes the step for the ``after``-th time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # which takes seconds, once for all
    where = (topics.servers, topics.names, topics.group, topics.partitions)
    process = context.Process(target=main, args=(where, database, step, number, after), daemon=True)
    process.start()
    return process


def dying(step: str, driver: Any, number: signal.Signals) -> Any:
    """The driver's producer, or one that dies when a transaction has been published, or is about to end."""

    class Dying(driver):  # type: ignore[misc]
        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if step == "published":
                self.flush(30)
                os.kill(os.getpid(), number)
            super().send_offsets_to_transaction(*arguments)

        def commit_transaction(self, *arguments: Any) -> None:
            if step == "before the end":
                self.flush(30)
                os.kill(os.getpid(), number)
            super().commit_transaction(*arguments)

    return Dying


def main(where: tuple[Any, ...], database: str, step: str, number: signal.Signals, after: int) -> None:
    """Work until the step has been taken with messages in hand so often."""
    owner, method, afterwards = STEPS[step]
    if owner is None:
        producer.Producer = dying(step, producer.Producer, number)  # type: ignore[misc]
    else:
        real, times = getattr(owner, method), 0

        def step_and_die(self: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal times
            if not afterwards:
                times += 1
                if times == after:
                    os.kill(os.getpid(), number)
            result = real(self, *arguments, **named)
            if afterwards and (method != "read" or result):
                times += 1
                if times == after:
                    os.kill(os.getpid(), number)
            return result

        setattr(owner, method, step_and_die)
    worker = InProcess(SqliteDecisionLog(database, SCHEMA), Topics.over(*where), worker_batch=7).worker
    worker.ending.wait()
    worker.join()
