"""Threads of their own: bounded, in turn, and never more than one for what hangs."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fraudml.errors import Overloaded
from fraudml.service.threads import Lane, SharedCall


def test_a_lane_runs_few_at_once_and_turns_away_what_is_too_much() -> None:
    entered, gate = threading.Semaphore(0), threading.Semaphore(0)
    running: list[int] = []
    most = 0

    def call(number: int) -> int:
        nonlocal most
        running.append(number)
        most = max(most, len(running))
        entered.release()
        assert gate.acquire(timeout=30)
        running.remove(number)
        return number

    async def story() -> None:
        lane = Lane(2, 3)
        tasks = [asyncio.create_task(lane.run(call, number)) for number in range(5)]
        for _ in range(2):
            assert await asyncio.to_thread(entered.acquire, timeout=30)
        with pytest.raises(Overloaded):
            await lane.run(call, 5)
        gate.release(5)
        assert await asyncio.gather(*tasks) == list(range(5))
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0)
        gate.release(5)
        assert await asyncio.gather(*(lane.run(call, number) for number in range(5))) == list(range(5))

    asyncio.run(asyncio.wait_for(story(), 60))
    assert most == 2


def test_a_shared_call_is_made_once_and_goes_on_without_those_who_asked() -> None:
    entered, gate = threading.Semaphore(0), threading.Semaphore(0)

    def call() -> str:
        entered.release()
        assert gate.acquire(timeout=30)
        return "done"

    async def story() -> None:
        shared = SharedCall(call)
        assert not shared.under_way
        asked = [asyncio.create_task(shared.result(30)) for _ in range(3)]
        assert await asyncio.to_thread(entered.acquire, timeout=30)
        asked.pop().cancel()
        with pytest.raises(TimeoutError):
            await shared.result(0.001)
        assert shared.under_way
        gate.release()
        assert await asyncio.gather(*asked) == ["done", "done"]
        assert not shared.under_way
        assert not entered.acquire(blocking=False)
        gate.release()
        assert await shared.result(30) == "done"

    asyncio.run(asyncio.wait_for(story(), 60))


def test_an_error_that_nobody_waits_for_is_no_complaint(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Semaphore(0)

    def call() -> None:
        assert gate.acquire(timeout=30)
        raise ZeroDivisionError

    async def story() -> None:
        shared = SharedCall(call)
        with pytest.raises(TimeoutError):
            await shared.result(0.001)
        gate.release()
        with pytest.raises(ZeroDivisionError):
            await shared.result(30)
        with pytest.raises(TimeoutError):
            await shared.result(0.001)
        gate.release()
        assert shared._task is not None
        await asyncio.wait({shared._task})

    asyncio.run(asyncio.wait_for(story(), 60))
    assert caplog.records == []
