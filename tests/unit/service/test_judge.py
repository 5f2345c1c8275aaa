"""Challengers are judged by the log: bad ones are withdrawn at once, and their end is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.costs import Costs
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.scorer import Scorer
from fraudml.errors import BundleError, ConflictError, DecisionLogError, RegistryError
from fraudml.events.label import Label
from fraudml.models.rollout import Challenger, Change, Experiment, Kind, Mode, Rollout
from fraudml.models.rollout_guardrails import Guardrails
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.rollouts.evidence import Currency
from fraudml.service import judge as judging
from fraudml.service.judge import Judge
from tests.support.scoring import SCHEMA, CountingRuntime, ReferenceStore, bundle, transaction

DEFAULTS = Guardrails()


class Inverted(CountingRuntime):
    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return 1 - super().score(vectors)


class Constant(CountingRuntime):
    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.full(len(vectors), 0.2)


class Failing(CountingRuntime):
    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        raise BundleError("broken by the test")


class Slow(CountingRuntime):
    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        until = time.perf_counter() + 0.025
        while time.perf_counter() < until:
            pass
        return super().score(vectors)


class World:
    def __init__(self, folder: Path) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.scorer = Scorer(Model(bundle("1")), ReferenceStore(), self.log)
        self.metrics = Metrics()
        self.withdrawn: list[Rollout] = []
        self.ended: list[tuple[Rollout, str]] = []
        self.errors: list[Exception] = []
        self.judge = self.another()
        self.revision = 0
        self._number = 0
        self._rng = np.random.default_rng(0)

    def another(self) -> Judge:
        currency = Currency(Costs(), 2)
        return Judge(self.scorer, self.log, currency, self.metrics, withdraw=self._withdraw, end=self._end)

    def start(self, runtime: CountingRuntime, mode: Mode = Mode.canary, limits: Guardrails | None = DEFAULTS) -> None:
        challenger = bundle("2")
        challenger.runtime = runtime  # type: ignore[assignment]
        since = time.time_ns() // 1_000
        arms = (Challenger(2, ((0, 500_000),)),)
        experiment = Experiment(mode, arms, "customer", f"salt-{since}", since, limits, self.revision)
        self.revision += 5
        rollout = Rollout(1, Change(Kind.start, "", "", "a test"), experiment, revision=self.revision)
        self.scorer.use(Lineup({1: Model(bundle("1")), 2: Model(challenger)}, rollout))

    def score(self, batches: int, size: int = 20) -> None:
        for _ in range(batches):
            events = []
            for _ in range(size):
                self._number += 1
                amount = int(self._rng.gamma(2.0, 600.0))
                events.append(transaction(self._number, customer=f"c{self._number}", amount=amount))
            self.scorer.score(events)

    def until_ended(self, batches: int = 200) -> None:
        for _ in range(batches):
            if self.ended or self.withdrawn:
                return
            self.score(1)
            self.judge.look()

    def metric(self, line: str) -> float:
        values = [text.rpartition(" ")[2] for text in self.metrics.text().decode().splitlines() if line in text[:-2]]
        return float(values[-1]) if values else 0.0

    def _withdraw(self, rollout: Rollout) -> None:
        self.withdrawn.append(rollout)
        self.scorer.use(Model(bundle("1")))

    def _end(self, rollout: Rollout, reason: str) -> None:
        if self.errors:
            raise self.errors.pop()
        self.ended.append((rollout, reason))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(judging, "SETTLED_US", 0)
    made = World(tmp_path)
    yield made
    made.log.close()


@pytest.mark.parametrize(
    ("runtime", "checks"),
    [
        (Inverted, {"scores", "decline_rate", "review_rate"}),
        (Constant, {"scores", "decline_rate", "review_rate"}),
        (Failing, {"errors"}),
        (Slow, {"latency"}),
    ],
)
def test_a_bad_challenger_is_ended_with_the_reason(
    world: World, runtime: type[CountingRuntime], checks: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    world.start(runtime())
    world.until_ended()
    ((rollout, reason),) = world.ended
    assert (rollout.revision, world.withdrawn) == (5, [rollout])
    check = reason.removeprefix("guardrail ").partition(":")[0]
    assert check in checks
    assert world.metric(f'fraud_rollout_breaches_total{{check="{check}"}}') == 1
    assert world.metric("fraud_rollout_breached") == 1
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR and "rollout" in r.getMessage()]
    assert reason in record.getMessage()
    world.score(3)
    world.judge.look()
    assert len(world.ended) == 1, "once"
    world.start(CountingRuntime())
    world.judge.look()
    assert world.metric("fraud_rollout_breached") == 0, "another rollout has begun"


def test_a_challenger_that_is_the_same_goes_on(world: World) -> None:
    world.start(CountingRuntime())
    for _ in range(50):
        world.score(2)
        world.judge.look()
    assert (world.withdrawn, world.ended) == ([], [])


def test_missed_fraud_counts_as_labels_come(world: World) -> None:
    class Blind(CountingRuntime):
        """Scores as the champion does, but what is worth most gets the score of what is worth least."""

        def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
            return super().score(np.where(vectors > 2_500, np.float32(100), vectors))

    world.start(Blind(), limits=Guardrails(max_psi=9, max_decline_shift=0.9, max_review_shift=0.9))
    for _ in range(60):
        world.score(5)
        found = [d for batch in world.log.decisions() for d in batch][-100:]
        frauds = [d.transaction for d in found if (d.transaction.amount_minor or 0) > 2_500]
        now = time.time_ns() // 1_000
        world.scorer.add_labels([Label(e.transaction_id, True, now) for e in frauds])
        world.judge.look()
        if world.ended:
            break
    assert world.ended
    assert world.ended[0][1].startswith("guardrail cost: ")


@pytest.mark.parametrize(("mode", "ends"), [(Mode.ab, False), (Mode.shadow, False), (Mode.canary, True)])
def test_what_is_compared_may_differ(world: World, mode: Mode, ends: bool) -> None:
    world.start(Inverted(), mode)
    world.until_ended(30)
    assert bool(world.ended) is ends


def test_an_ab_test_ends_when_a_challenger_fails(world: World) -> None:
    world.start(Failing(), Mode.ab)
    world.until_ended()
    assert "guardrail errors" in world.ended[0][1]


def test_without_guardrails_nothing_ends(world: World) -> None:
    world.start(Inverted(), limits=None)
    world.until_ended(20)
    assert not world.withdrawn


def test_the_evidence_survives_a_restart_and_is_the_same_for_all(world: World) -> None:
    """Another process looks first, and sees too little."""
    world.start(Failing())
    world.score(1, size=20)
    world.another().look()
    assert not world.ended
    world.score(10)
    for _ in range(1_000):  # numbers of a batch run ahead of the clock, by milliseconds
        world.judge.look()
        if world.ended:
            break
    assert world.ended


def test_an_end_that_the_registry_does_not_take_is_written_later(world: World) -> None:
    world.errors = [RegistryError("gone"), RegistryError("gone")]
    world.start(Failing())
    world.until_ended()
    assert (len(world.withdrawn), world.ended) == (1, [])
    for _ in range(3):
        world.judge.look()
    assert len(world.ended) == 1
    assert len(world.withdrawn) == 1


def test_an_end_that_another_was_faster_with_is_tried_again(world: World) -> None:
    world.errors = [ConflictError("somebody else")]
    world.start(Failing())
    world.until_ended()
    world.judge.look()
    assert len(world.ended) == 1


def test_a_challenger_that_cannot_be_served_ends_the_rollout(world: World) -> None:
    rollout = Rollout(1, Change(Kind.start, "", "", "a test"))
    world.judge.refuse(rollout, "a service cannot serve the challenger: it is corrupt")
    world.judge.look()
    assert world.ended == [(rollout, "a service cannot serve the challenger: it is corrupt")]
    assert world.metric('fraud_rollout_breaches_total{check="unservable"}') == 1


def test_a_log_that_cannot_be_read_is_told_once_and_survived(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.start(Failing())
    world.score(5)
    with monkeypatch.context() as broken:

        def fail(*args: object, **kwargs: object) -> None:
            raise DecisionLogError("the disk is gone")

        broken.setattr(world.log, "outcomes", fail)
        for _ in range(3):
            world.judge.look()
    assert [r.getMessage() for r in caplog.records if "not judged" in r.getMessage()] == [
        "challengers are not judged now: the disk is gone"
    ]
    world.until_ended()
    assert world.ended


def test_the_thread_looks_until_it_is_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "EVERY_S", 0.001)
    judge = world.another()
    world.start(Failing())
    judge.start()
    for _ in range(1_000):
        world.score(1)
        if world.ended:
            break
    judge.stop()
    assert world.ended
    world.judge.stop()  # one that was never started
