"""Natural batching: who waits together is decided together, in order, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.model import Model
from fraudml.decisions.record import Decision
from fraudml.decisions.scorer import Decided, Scorer
from fraudml.errors import ConflictError, DeadlineExceeded, DecisionLogError, Overloaded
from fraudml.service.pipeline import Pipeline
from tests.support.scoring import SCHEMA, ReferenceStore, bundle, transaction


class Stage:
    """A half of the scorer that can be held: ``entered`` counts who came, ``open`` lets them through."""

    def __init__(self, real: Callable[[Any], Any]) -> None:
        self._real = real
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.held = False
        self.sizes: list[int] = []

    def __call__(self, batch: Any) -> Any:
        self.sizes.append(len(batch.transactions if isinstance(batch, Decided) else batch))
        self.entered.release()
        if self.held:
            assert self.gate.acquire(timeout=30)
        return self._real(batch)


class World:
    """A pipeline over a real log; both halves of its scorer can be held."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.scorer = Scorer(Model(bundle()), ReferenceStore(), self.log)
        self.decide, self.commit = Stage(self.scorer.decide), Stage(self.scorer.commit)
        self.scorer.decide, self.scorer.commit = self.decide, self.commit  # type: ignore[method-assign]
        self.shed: list[str] = []
        limits = {"most_waiting": 1_000, "deadline_s": 30.0} | options
        self.pipeline = Pipeline(self.scorer, on_shed=self.shed.append, **limits)

    def run(self, story: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run(asyncio.wait_for(story, 60))
        finally:
            self.pipeline.close()
            self.log.close()

    async def score(self, number: int, **changes: Any) -> Decision | ConflictError:
        request = await self.pipeline.score((transaction(number, **changes),))
        (outcome,) = request.answer()
        assert set(request.stages) >= {"queue", "find"}
        return outcome

    async def begun(self, stage: Stage) -> None:
        assert await asyncio.to_thread(stage.entered.acquire, timeout=30)


@pytest.fixture(params=[True, False], ids=["overlap", "one-thread"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return World(tmp_path, overlap=request.param)


def ids(outcomes: list[Any]) -> list[str]:
    return [outcome.transaction.transaction_id for outcome in outcomes]


def test_one_alone_is_decided_at_once_and_those_together_in_one_batch(world: World) -> None:
    async def story() -> None:
        assert ids([await world.score(1)]) == ["t1"]
        together = await asyncio.gather(*(world.score(n) for n in range(2, 12)))
        assert ids(together) == [f"t{n}" for n in range(2, 12)]

    world.run(story())
    assert world.decide.sizes == [1, 10]


def test_what_arrives_meanwhile_is_the_next_batch_decided_while_the_last_is_committed(tmp_path: Path) -> None:
    world = World(tmp_path, overlap=True)

    async def story() -> None:
        world.commit.held = True
        first = asyncio.create_task(world.score(1))
        await world.begun(world.commit)  # the first is being committed
        second = [asyncio.create_task(world.score(n)) for n in (2, 3)]
        await world.begun(world.decide)
        await world.begun(world.decide)  # and the second is being decided
        assert not first.done()
        for _ in range(2):
            world.commit.gate.release()
        assert ids([await first, *[await task for task in second]]) == ["t1", "t2", "t3"]

    world.run(story())
    assert world.decide.sizes == [1, 2]


def test_both_copies_of_one_id_under_way_get_one_decision(world: World) -> None:
    async def story() -> None:
        world.commit.held = True
        first = asyncio.create_task(world.score(1))
        await world.begun(world.commit)
        again = [asyncio.create_task(world.score(1)) for _ in range(3)]
        other = asyncio.create_task(world.score(1, amount=7))
        for _ in range(3):
            world.commit.gate.release()
        decided = await first
        assert [await task for task in again] == [decided] * 3
        assert isinstance(await other, ConflictError)
        assert world.log.find(["t1"]) == {"t1": decided}

    world.run(story())


def test_a_batch_has_its_limit(tmp_path: Path) -> None:
    world = World(tmp_path, most_together=4)

    async def story() -> None:
        await asyncio.gather(*(world.score(n) for n in range(10)))

    world.run(story())
    assert world.decide.sizes == [4, 4, 2]


def test_beyond_the_queue_requests_are_turned_away(tmp_path: Path) -> None:
    world = World(tmp_path, most_waiting=2)

    async def story() -> None:
        world.decide.held = True
        tasks = [asyncio.create_task(world.score(1))]
        await world.begun(world.decide)
        tasks += [asyncio.create_task(world.score(n)) for n in (2, 3, 4)]
        with pytest.raises(Overloaded):
            await tasks[3]
        world.decide.gate.release(2)
        assert ids([await task for task in tasks[:3]]) == ["t1", "t2", "t3"]

    world.run(story())
    assert world.shed == ["queue_full"]


def test_nobody_waits_beyond_the_deadline_and_what_is_late_is_not_decided(tmp_path: Path) -> None:
    world = World(tmp_path, deadline_s=0.05)

    async def story() -> None:
        world.decide.held = True
        begun = asyncio.create_task(world.score(1))
        await world.begun(world.decide)
        queued = asyncio.create_task(world.score(2))
        for task in (begun, queued):
            with pytest.raises(DeadlineExceeded):
                await task
        world.decide.held = False
        world.decide.gate.release()
        assert ids([await world.score(3)]) == ["t3"]
        # the first was under way and is decided: a retry gets that; the second never was
        assert set(world.log.find(["t1", "t2", "t3"])) == {"t1", "t3"}

    world.run(story())
    assert world.shed == ["deadline", "deadline"]


def test_other_calls_have_their_turn(world: World) -> None:
    async def story() -> None:
        world.decide.held = True
        first = asyncio.create_task(world.score(1))
        await world.begun(world.decide)
        call = asyncio.create_task(world.pipeline.run(lambda: list(world.log.transaction_ids())))
        last = asyncio.create_task(world.score(2))
        world.decide.gate.release(2)
        await first
        assert await call in ([], ["t1"])  # after the first was decided, whether or not it was committed
        await last
        with pytest.raises(ZeroDivisionError):
            await world.pipeline.run(divmod, 1, 0)

    world.run(story())


def test_a_failure_reaches_those_concerned_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    append = world.log.append

    def fail(decisions: Any) -> None:
        raise DecisionLogError("disk full")

    async def story() -> None:
        monkeypatch.setattr(world.log, "append", fail)
        with pytest.raises(DecisionLogError):
            await world.score(1)
        monkeypatch.setattr(world.log, "append", append)
        assert ids([await world.score(2)]) == ["t2"]
        assert set(world.log.find(["t1", "t2"])) == {"t1", "t2"}

    world.run(story())


def test_a_defect_in_recovery_does_not_end_the_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.service.pipeline.PROBE_S", 0.01)
    recorder = world.scorer.recorder
    tried = threading.Semaphore(0)

    def fail(decisions: Any) -> Any:
        tried.release()
        raise ZeroDivisionError

    async def story() -> None:
        await world.score(1)
        with monkeypatch.context() as broken:
            broken.setattr(recorder, "commit", fail)
            broken.setattr(recorder, "_log_gone", True)
            for _ in range(2):
                assert await asyncio.to_thread(tried.acquire, timeout=30)
        assert ids([await world.score(2)]) == ["t2"]
        assert world.pipeline.alive

    world.run(story())


def test_closing_finishes_what_waits(world: World) -> None:
    async def story() -> list[Any]:
        tasks = [asyncio.create_task(world.score(n)) for n in range(5)]
        await asyncio.sleep(0)  # they have asked
        await asyncio.to_thread(world.pipeline.close)
        return await asyncio.gather(*tasks)

    assert ids(world.run(story())) == [f"t{n}" for n in range(5)]
    assert all(not thread.is_alive() for thread in world.pipeline._threads)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("decide", "commit")]
