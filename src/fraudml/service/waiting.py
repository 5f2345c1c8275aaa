"""A request on its way through the pipeline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from fraudml.events.transaction import Transaction

R = TypeVar("R")

logger = logging.getLogger(__name__)


class Waiting(Generic[R]):
    """Transactions to decide on, or another ``call`` for the thread that decides.

    Once it is answered, ``done`` is set and ``on_done`` is called with the request itself, on the event loop. Who sets
    ``done`` before that gives up: what has not begun is not begun, what has begun goes on. ``decode_s``: the seconds
    that its reader took.

    >>> said = []
    >>> request = Waiting((), said.append)
    >>> resolve([request], [7])
    >>> request.answer(), said == [request]
    (7, True)
    """

    __slots__ = (
        "_error",
        "_result",
        "call",
        "decode_s",
        "done",
        "of_batch",
        "on_done",
        "queue_s",
        "since",
        "transactions",
    )

    def __init__(
        self,
        transactions: Sequence[Transaction],
        on_done: Callable[[Waiting[R]], None],
        *,
        call: Callable[[], R] | None = None,
        decode_s: float = 0.0,
    ) -> None:
        self.transactions = transactions
        self.on_done = on_done
        self.call = call
        self.decode_s = decode_s
        self.queue_s = 0.0
        self.of_batch: Mapping[str, float] = {}  # seconds in the stages of the whole batch
        self.since = time.perf_counter()
        self.done = False
        self._result: Any = None
        self._error: Exception | None = None

    @property
    def stages(self) -> dict[str, float]:
        """The seconds it spent in each stage, once it is answered; those of its batch are the whole batch's."""
        return {"decode": self.decode_s, "queue": self.queue_s, **self.of_batch}

    def answer(self) -> R:
        """What it was answered, or raises that."""
        if self._error is not None:
            raise self._error
        result: R = self._result
        return result

    def succeed(self, result: R) -> None:
        """Answer it, unless it is done."""
        if not self.done:
            self.done = True
            self._result = result
            self.on_done(self)

    def fail(self, error: Exception) -> None:
        """The same with an error."""
        if not self.done:
            self.done = True
            self._error = error
            self.on_done(self)


def resolve(requests: Sequence[Waiting[Any]], results: Sequence[Any] | Exception) -> None:
    """Answer them, each with its own result or all with the error; a defect of one leaves the others alone."""
    for place, request in enumerate(requests):
        try:
            if isinstance(results, Exception):
                request.fail(results)
            else:
                request.succeed(results[place])
        except Exception:
            logger.exception("answering failed")
