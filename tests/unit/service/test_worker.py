"""The scoring thread: one call at a time, and none is lost when its client is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from fraudml.service.worker import Overloaded, Worker


def test_calls_run_in_one_thread_and_errors_come_back() -> None:
    worker = Worker()

    async def use() -> list[Any]:
        return await asyncio.gather(*(worker.run(threading.get_ident) for _ in range(5)))

    assert len({*asyncio.run(use()), threading.get_ident()}) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(worker.run(divmod, 1, 0))
    worker.close()


def test_a_cancelled_client_does_not_cancel_the_call_and_frees_its_place() -> None:
    worker = Worker(most_waiting=1)
    entered, release, done = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        entered.set()
        release.wait(30)
        done.set()

    async def use() -> int:
        task = asyncio.create_task(worker.run(call))
        await asyncio.to_thread(entered.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Overloaded):
            await worker.run(int)
        release.set()
        await asyncio.to_thread(done.wait, 30)
        while worker._waiting:  # until the loop has heard of it
            await asyncio.sleep(0)
        return await worker.run(int, "7")

    assert asyncio.run(use()) == 7
    worker.close()
