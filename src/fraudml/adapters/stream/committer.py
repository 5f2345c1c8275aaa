"""Commits batches while the next ones are decided.

A transaction of Kafka is five answers of the broker, each waited for. In a thread of their own they cost no decision
its time; what has come meanwhile goes together with the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fraudml.decisions.stream import Outgoing, Partition
from fraudml.errors import StreamError

MOST = 2  # batches that wait; then the pace is the broker's
LONG_S = 5.0  # under way for longer: nothing more is read until it has ended, or hangs

Commit = Callable[[Sequence[Outgoing], Mapping[Partition, int], Any], None]


class Batch(NamedTuple):
    """See :meth:`fraudml.decisions.stream.Stream.commit`; ``member``: the driver's metadata of who read it."""

    outgoing: Sequence[Outgoing]
    done: Mapping[Partition, int]
    then: Callable[[], None]
    member: Any


class Committer:
    """Calls ``commit`` in order. After a failure it commits nothing until :meth:`reset`: what comes later may not be
    there before what failed."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._changed = threading.Condition()
        self._waiting: list[Batch] = []
        self._since_s: float | None = None  # of what is under way
        self._failure: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"{threading.current_thread().name}-commits", daemon=True
        )
        self._thread.start()

    def add(self, batch: Batch) -> None:
        """Have it committed. Raises what an earlier one failed with."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or len(self._waiting) < MOST)
            self._check()
            self._waiting.append(batch)
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what one failed with; wait for one that takes long, as it may hang."""
        with self._changed:
            if self._since_s is not None and time.monotonic() - self._since_s > LONG_S:
                self._changed.wait_for(lambda: self._since_s is None)
            self._check()

    def settle(self) -> None:
        """Wait until all are committed, or one has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._since_s is None and not self._waiting)

    def drop(self) -> None:
        """Forget those that wait, as if they had failed, and wait for the one under way."""
        with self._changed:
            if self._waiting:
                self._fail(StreamError("others have the partitions of what was to be published; it is read again"))
            self._changed.wait_for(lambda: self._since_s is None)

    def reset(self) -> None:
        """Go on after a failure: what was not committed is read again."""
        with self._changed:
            self._waiting.clear()
            self._changed.wait_for(lambda: self._since_s is None)
            self._failure = None

    def close(self) -> None:
        """Commit what waits, unless one has failed; then no more."""
        self.settle()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._waiting.clear()

    def _run(self) -> None:
        while batches := self._next():
            done: dict[Partition, int] = {}
            for batch in batches:
                done.update(batch.done)
            failure: BaseException | None = None
            try:
                self._commit([each for batch in batches for each in batch.outgoing], done, batches[-1].member)
                for batch in batches:
                    batch.then()
            except BaseException as error:  # raised where the next one is handed over
                failure = error
            with self._changed:
                self._since_s = None
                if failure is not None:
                    self._fail(failure)
                self._changed.notify_all()

    def _next(self) -> list[Batch]:
        """All that wait; none when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batches, self._waiting = self._waiting, []
            if batches:
                self._since_s = time.monotonic()
            self._changed.notify_all()
            return batches
