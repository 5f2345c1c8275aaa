"""Challengers are judged by the log: bad ones are withdrawn at once, and their end is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
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
from fraudml.monitoring.rollouts import evidence
from fraudml.monitoring.rollouts.checkpoint import Checkpoint
from fraudml.monitoring.rollouts.evidence import Currency
from fraudml.scoring import judge as judging
from fraudml.scoring.judge import Judge
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
        self.checkpoint: Checkpoint | None = None
        self.another()
        self.revision = 0
        self._number = 0
        self._rng = np.random.default_rng(0)

    def another(self) -> Judge:
        """The judge of another process with the same home directory."""
        self.judge = Judge(
            self.scorer,
            self.log,
            Currency(Costs(), 2),
            self.metrics,
            withdraw=self._withdraw,
            end=self._end,
            checkpoint=self.checkpoint,
        )
        return self.judge

    def batches_read(self, then: Callable[[int], None] = lambda number: None) -> list[int]:
        """The rows of each batch that is read from the log from now on; ``then`` is told how many there are."""
        read: list[int] = []
        outcomes = self.log.outcomes

        def counted(*args: int, **kwargs: bool) -> Iterator[pa.RecordBatch]:
            for batch in outcomes(*args, **kwargs):
                read.append(batch.num_rows)
                then(len(read))
                yield batch

        self.log.outcomes = counted  # type: ignore[method-assign, assignment]
        return read

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

    def settle(self) -> None:
        """Return when the clock has passed all arrival numbers, which run ahead of it by milliseconds."""
        while time.time_ns() // 1_000 <= self.log.last_arrival():
            pass

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
    world.judge.look()
    world.another()
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


LAG = "fraud_rollout_judge_lag_seconds"


def test_a_breach_is_found_in_the_batch_where_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "BATCH", 100)
    world.start(Failing())
    world.score(100)
    read = world.batches_read()
    world.judge.look()
    assert world.ended
    assert sum(read) <= 600, "of 2,000"


def test_a_stop_waits_for_one_batch_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "BATCH", 20)
    world.start(CountingRuntime())
    world.score(30)
    read = world.batches_read(lambda number: world.judge.stop() if number == 3 else None)
    world.judge.look()
    assert len(read) == 3
    assert world.metric(LAG) > 0, "it was left with more to read"


def test_a_long_backlog_is_read_in_several_looks_and_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(evidence, "BATCH", 200)
    monkeypatch.setattr(judging, "LOOK_S", 0.0)
    monkeypatch.setattr(judging, "FAR_S", 1e-6)
    world.start(CountingRuntime())
    assert world.metric(LAG) == 0
    world.score(30)
    lags = []
    for _ in range(10):
        world.judge.look()
        lags.append(world.metric(LAG))
    assert lags[0] > lags[-1] == 0
    assert [record.getMessage() for record in caplog.records if "judged by" in record.getMessage()] == [
        "challengers are judged by what was logged 0 s ago, until that is read",
        "challengers are judged by all that is logged again",
    ]


def test_a_log_that_is_gone_from_the_start_is_a_lag(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.checkpoint = Checkpoint(tmp_path / "guards")
    world.start(CountingRuntime())
    world.score(5)
    world.settle()
    world.another().look()
    world.judge.stop()
    with monkeypatch.context() as broken:
        broken.setattr(world.log, "last_arrival", None)
        world.another().look()
        assert world.metric(LAG) > 0
    world.judge.look()
    assert world.metric(LAG) == 0


def test_a_log_that_cannot_be_read_is_a_lag(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start(CountingRuntime())
    world.score(5)
    world.judge.look()
    assert world.metric(LAG) == 0
    with monkeypatch.context() as broken:
        broken.setattr(world.log, "outcomes", None)
        world.judge.look()
        assert world.metric(LAG) > 0
    world.judge.look()
    assert world.metric(LAG) == 0
    world.scorer.use(Model(bundle("1")))
    world.judge.look()
    assert world.metric(LAG) == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_restart_goes_on_from_what_was_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    world.checkpoint = Checkpoint(tmp_path / "guards")
    world.another()
    monkeypatch.setattr(judging, "KEEP_S", 0.0 if killed else 60.0)
    world.start(CountingRuntime())
    world.score(20)
    world.settle()
    world.judge.look()
    if not killed:
        world.judge.stop()
    read = world.batches_read()
    world.another().look()
    assert read == []
    world.score(2)
    world.settle()
    world.judge.look()
    assert read == [40]


def test_a_breach_that_nobody_was_told_of_is_known_after_a_restart(world: World, tmp_path: Path) -> None:
    world.checkpoint = Checkpoint(tmp_path / "guards")
    world.another()
    world.errors = [RegistryError("gone")]
    world.start(Failing())
    lineup = world.scorer.lineup
    world.until_ended()
    assert (len(world.withdrawn), world.ended) == (1, [])
    world.judge.stop()
    world.scorer.use(lineup)
    read = world.batches_read()
    world.another().look()
    assert len(world.withdrawn) == 2
    assert world.ended[0][1].startswith("guardrail errors: ")
    assert read == []


def test_an_end_that_cannot_be_written_keeps_nobody_from_judging(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.errors = [RuntimeError("nobody foresaw this") for _ in range(1_000)]
    world.judge.refuse(Rollout(1, Change(Kind.start, "", "", "a test")), "it is corrupt")
    world.judge.look()
    world.start(Failing())
    world.until_ended()
    assert len(world.withdrawn) == 1
    said = [record for record in caplog.records if "not in the registry yet" in record.getMessage()]
    assert len(said) == 1
    assert said[0].exc_info
    world.errors = []
    world.judge.look()
    assert world.ended[0][1].startswith("guardrail errors: ")
