"""Blocking calls in threads of their own: a flood of one kind does not starve another, and what hangs costs one thread.

All other calls of the service share the pool of ``run_in_threadpool``. Here each call has a thread that does not keep
the process from ending, whatever holds it. Nothing is tied to an event loop before it is first used, and then to that
one: there may be several services in a process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, ParamSpec, TypeVar

from fraudml.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """A few threads for one kind of call, and a bounded queue before them."""

    def __init__(self, threads: int, most_waiting: int) -> None:
        self._threads = asyncio.Semaphore(threads)
        self._free = threads + most_waiting  # places, in a thread or in the queue

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The call's result, in its turn; raises Overloaded when too many wait, and what the call raises."""
        if not self._free:
            raise Overloaded("too many requests of this kind are waiting; retry the same request")
        self._free -= 1
        try:
            async with self._threads:
                return await _in_thread(lambda: call(*args, **kwargs))
        finally:
            self._free += 1


class SharedCall(Generic[T]):
    """A call that is under way at most once: who asks meanwhile waits for the same result."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._task: asyncio.Task[T] | None = None

    @property
    def under_way(self) -> bool:
        """Whether somebody's call has not ended yet; it may hang."""
        return self._task is not None and not self._task.done()

    async def result(self, within_s: float) -> T:
        """What the call returns or raises; TimeoutError after ``within_s`` seconds. The call goes on all the same."""
        task = self._task
        if task is None or task.done():
            task = self._task = asyncio.create_task(_in_thread(self._call))
            task.add_done_callback(_look_at)
        # it is not cancelled with those who wait: a thread cannot be, and a second one would hang as well
        done, _ = await asyncio.wait({task}, timeout=within_s)
        if not done:
            raise TimeoutError("no answer in time")
        return task.result()


async def _in_thread(call: Callable[[], T]) -> T:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it, so the thread may always set it

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where it is awaited
            future.set_exception(error)

    # not an executor's thread: the interpreter would wait for it before it ends
    threading.Thread(target=run, name="call", daemon=True).start()
    return await asyncio.wrap_future(future)


def _look_at(task: asyncio.Task[T]) -> None:
    """asyncio complains about errors that nobody has looked at; those who asked may not have waited so long."""
    if not task.cancelled():
        task.exception()
