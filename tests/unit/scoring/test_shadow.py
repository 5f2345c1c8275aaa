"""Scoring in the shadow: logged apart, compared, dropped when there is no time, and never in anybody's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.policy import Policy
from fraudml.decisions.scorer import Scorer
from fraudml.errors import DecisionLogError
from fraudml.models.rollout import Challenger, Change, Experiment, Kind, Mode, Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring import shadow as shadows
from fraudml.scoring.shadow import Shadow
from tests.support.scoring import SCHEMA, CountingRuntime, ReferenceStore, bundle, scores_of, transaction


class Held(CountingRuntime):
    """Says when it is asked, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        self.asked.release()
        assert self.go.wait(60)
        return super().score(vectors)


class World:
    def __init__(self, folder: Path) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.scorer = Scorer(Model(bundle("1")), ReferenceStore(), self.log)
        self.metrics = Metrics()
        self.shadow = Shadow(self.log, self.metrics)
        self.scorer.on_shadow = self.shadow.offer
        self._number = 0

    def start(self, runtime: CountingRuntime | None = None, parts: int = 1_000_000) -> None:
        challenger = bundle("2")
        if runtime is not None:
            challenger.runtime = runtime  # type: ignore[assignment]
        experiment = Experiment(Mode.shadow, (Challenger(2, ((0, parts),)),), "customer", "s", 0)
        rollout = Rollout(1, Change(Kind.start, "", "", "a test"), experiment, revision=5)
        model = Model(challenger, Policy(0.0, 2.0))
        self.scorer.use(Lineup({1: Model(bundle("1")), 2: model}, rollout))

    def score(self, count: int) -> list[str]:
        first, self._number = self._number, self._number + count
        decisions = self.scorer.score([transaction(i, customer=f"c{i % 10}") for i in range(first, first + count)])
        return [decision.action for decision in decisions]

    def logged(self) -> list[dict[str, object]]:
        return [row for batch in self.log.shadow_scores() for row in batch.to_pylist()]

    def count(self, outcome: str) -> float:
        line = f'fraud_shadow_total{{outcome="{outcome}"}}'
        values = [text.rpartition(" ")[2] for text in self.metrics.text().decode().splitlines() if line in text]
        return float(values[-1]) if values else 0.0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(shadows, "STOP_S", 120.0)  # a thread of the lowest priority waits long on a busy machine
    made = World(tmp_path)
    yield made
    made.shadow.stop()
    made.log.close()


def test_scores_are_logged_beside_the_decisions(world: World) -> None:
    world.start()
    world.shadow.start()
    actions = world.score(40)
    world.shadow.stop()
    decisions = [decision for batch in world.log.decisions() for decision in batch]
    rows = world.logged()
    assert [row["arrival"] for row in rows] == [decision.arrival for decision in decisions]
    expected = scores_of(np.array([decision.features() for decision in decisions]))
    assert [row["score"] for row in rows] == expected
    assert {(row["model_version"], row["served_version"]) for row in rows} == {("2", "1")}
    assert {row["action"] for row in rows} == {"review"}
    assert world.count("scored") == 40
    assert world.count("flipped") == sum(action != "review" for action in actions) > 0
    assert world.count("failed") == 0


def test_only_its_share_is_scored(world: World) -> None:
    world.start(parts=300_000)
    world.shadow.start()
    world.score(100)
    world.shadow.stop()
    seen = {row["arrival"] for row in world.logged()}
    customers = {
        decision.transaction.entities[0]: decision.arrival in seen
        for batch in world.log.decisions()
        for decision in batch
    }
    assert 0 < sum(customers.values()) < 10
    assert len(seen) == 10 * sum(customers.values()), "all of an entity, or none"


def test_a_model_that_hangs_slows_nobody_and_the_rest_is_dropped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "MOST_WAITING", 50)
    runtime = Held()
    world.start(runtime)
    world.shadow.start()
    world.score(10)
    assert runtime.asked.acquire(timeout=60)
    for _ in range(20):
        assert len(world.score(10)) == 10, "decisions go on"
    assert world.count("dropped") == 150
    runtime.go.set()
    world.shadow.stop()
    world.shadow.stop()  # twice is fine


def test_a_model_that_fails_fails_nobody(world: World) -> None:
    runtime = CountingRuntime()
    runtime.broken = True
    world.start(runtime)
    world.shadow.start()
    assert len(world.score(10)) == 10
    world.shadow.stop()
    assert world.count("failed") == 10
    assert {row["score"] for row in world.logged()} == {None}


def test_what_waits_is_scored_even_if_the_thread_first_runs_after_it_was_told_to_stop(world: World) -> None:
    world.start()
    world.score(10)
    world.shadow._stopping = True  # as if its thread got no processor until now
    world.shadow.start()
    world.shadow.stop()
    assert world.count("scored") == 10


def test_a_defect_in_the_shadow_fails_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.start()
    world.scorer.lineup.shadows[0].model.scores = None  # type: ignore[assignment, method-assign]
    world.shadow.start()
    assert len(world.score(10)) == 10
    world.shadow.stop()
    assert world.count("failed") == 10
    assert "model 2 failed in the shadow" in caplog.text


def test_a_log_that_does_not_take_them_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(scores: object) -> None:
        raise DecisionLogError("full")

    monkeypatch.setattr(world.log, "append_shadow", fail)
    world.start()
    world.shadow.start()
    world.score(10)
    world.shadow.stop()
    assert world.count("unlogged") == 10
    assert "10 scores of the shadow are not logged: full" in caplog.text
