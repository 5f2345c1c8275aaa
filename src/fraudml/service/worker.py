"""The one thread that scores, so that the event loop stays free for everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from fraudml.errors import StoreError

MOST_WAITING = 1_000  # calls; more would only wait longer than their clients do

P = ParamSpec("P")
R = TypeVar("R")


class Overloaded(StoreError):
    """More calls wait than can be answered in time."""


class Worker:
    """Runs calls one after the other in a thread of its own. Used from one event loop."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scorer")
        self._most_waiting = most_waiting
        self._waiting = 0

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The call's result; raises :class:`Overloaded` at once when too many wait already."""
        if self._waiting >= self._most_waiting:
            raise Overloaded("too many requests are waiting")
        self._waiting += 1
        future = asyncio.wrap_future(self._thread.submit(call, *args, **kwargs))
        # A client that hangs up cancels its request, not the call: the decision is made and logged all the same.
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Finish what waits, then stop the thread."""
        self._thread.shutdown(wait=True)

    def _done(self, future: asyncio.Future[R]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, in case that nobody waits for it any more
