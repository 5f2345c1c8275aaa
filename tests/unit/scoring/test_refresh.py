"""A newer champion serves without a restart; whatever goes wrong with it, the one that serves stays."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.model import Model
from fraudml.decisions.record import Decision, Degradation
from fraudml.decisions.scorer import Scorer
from fraudml.errors import ConfigError, NotFoundError, RegistryError
from fraudml.features.derive import to_model
from fraudml.features.spec import AttributeFeature, FeatureSet
from fraudml.models import bundle, lifecycle
from fraudml.models.rollout import Challenger, Experiment, Mode, Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.refresh import Refresher, refresher
from fraudml.settings import Settings
from tests.support.bundles import make_bundle
from tests.support.scoring import FEATURES, SCHEMA, ReferenceStore, transaction

OTHER_FEATURES = FeatureSet(SCHEMA, [AttributeFeature("amount", of="amount")])
MODEL_FILE = bundle.MODEL_FILE


class FakeRegistry:
    """An alias over bundle directories; ``error`` is raised instead of an answer, ``hang`` holds it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.champion = "1"
        self.error: Exception | None = None
        self.hang: threading.Event | None = None
        self.asked = threading.Semaphore(0)
        self.loads: list[int] = []
        self.document: Rollout | None = None  # instead of one with just that champion

    def add(self, version: str, feature_set: FeatureSet = FEATURES) -> Path:
        directory = self.folder / version
        make_bundle(directory, feature_set, bias=-float(version))
        return directory

    def named(self) -> Rollout:
        self.asked.release()
        if self.hang is not None:
            self.hang.wait()
        if self.error is not None:
            raise self.error
        return self.document or lifecycle.alone(int(self.champion))

    def load(self, version: int) -> Model:
        self.loads.append(version)
        if self.hang is not None:
            self.hang.wait()
        return Model(bundle.load(self.folder / str(version), version=str(version)))


class World:
    def __init__(self, folder: Path) -> None:
        self.registry = FakeRegistry(folder)
        for version in ("1", "2", "3"):
            self.registry.add(version)
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.scorer = Scorer(self.registry.load(1), ReferenceStore(), self.log)
        self.registry.loads.clear()
        self.metrics = Metrics()
        self.refresher = Refresher(self.scorer, self.registry.named, self.registry.load, self.metrics)

    @property
    def serving(self) -> str:
        return self.scorer.model.version

    def metric(self, line: str) -> float:
        """The value of a metric's line; 0 where there is none yet."""
        values = [text.rpartition(" ")[2] for text in self.metrics.text().decode().splitlines() if line in text[:-2]]
        return float(values[-1]) if values else 0.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.log.close()


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fraudml.scoring.refresh")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_nothing_newer_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.refresher.check()
    assert (world.serving, world.registry.loads, said(caplog)) == ("1", [], [])


def test_a_newer_champion_serves_from_the_next_batch_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (before,) = world.scorer.score([transaction(1)])
    world.registry.champion = "2"
    world.refresher.check()
    (after,) = world.scorer.score([transaction(2)])
    assert (before.model_version, after.model_version) == ("1", "2")
    assert world.scorer.score([transaction(1)]) == [before]
    assert world.metric('fraud_model_swaps_total{outcome="swapped"}') == 1
    assert world.metric('fraud_model_info{model="fraud",version="2"}') == 1
    assert said(caplog) == [("INFO", "model 2 serves instead of model 1")]
    world.registry.champion = "1"  # a rollback is a change like any other
    world.refresher.check()
    assert world.serving == "1"


def test_an_unreachable_registry_keeps_the_model_is_flagged_and_recovers(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.registry.champion, world.registry.error = "2", RegistryError("connection refused")
    for _ in range(3):
        world.refresher.check()
    assert world.refresher.registry_down
    assert world.scorer.registry_gone
    (decision,) = world.scorer.score([transaction(1)])
    assert (decision.model_version, decision.degraded) == ("1", (Degradation.registry,))
    assert said(caplog) == [("WARNING", "model 1 serves on, newer ones are not seen: connection refused")]
    world.registry.error = None
    world.refresher.check()
    assert not world.refresher.registry_down
    assert not world.scorer.registry_gone
    (decision,) = world.scorer.score([transaction(2)])
    assert (decision.model_version, decision.degraded) == ("2", ())
    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO", "INFO"]


def test_an_unforeseen_error_is_told_with_its_traceback_and_survived(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.registry.error = KeyError("surprise")
    world.refresher.check()
    assert world.refresher.registry_down
    assert caplog.records[-1].exc_info is not None
    world.registry.error = None
    world.refresher.check()
    assert not world.refresher.registry_down


def test_an_alias_that_names_nothing_is_an_answer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.registry.error = NotFoundError("there is no version with the alias 'champion'")
    world.refresher.check()
    world.refresher.check()
    assert (world.serving, world.refresher.registry_down) == ("1", False)
    assert [level for level, _ in said(caplog)] == ["ERROR"]


def break_hash(directory: Path) -> None:
    (directory / MODEL_FILE).write_bytes(b"rot")


def break_scores(directory: Path) -> None:
    manifest = bundle.read_manifest(directory)
    manifest.reference_scores[0] += 0.01
    bundle.save(directory, (directory / MODEL_FILE).read_bytes(), manifest)


def break_features(directory: Path) -> None:
    shutil.rmtree(directory)
    make_bundle(directory, OTHER_FEATURES)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (break_hash, "corrupt"),
        (break_scores, "does not give the reference scores"),
        (break_features, "reads other features"),
        (shutil.rmtree, "is no bundle"),
    ],
)
def test_a_bundle_that_must_not_serve_is_refused_once(
    world: World, damage: object, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    damage(world.registry.folder / "2")
    world.registry.champion = "2"
    for _ in range(3):
        world.refresher.check()
    assert (world.serving, world.registry.loads, world.refresher.registry_down) == ("1", [2], False)
    assert world.metric('fraud_model_swaps_total{outcome="refused"}') == 1
    ((level, message),) = said(caplog)
    assert level == "ERROR"
    assert message.startswith("model 1 serves on, model 2 must not: ")
    assert why in message
    (decision,) = world.scorer.score([transaction(1)])
    assert (decision.model_version, decision.degraded) == ("1", ())
    world.registry.champion = "3"
    world.refresher.check()
    assert world.serving == "3"
    shutil.rmtree(world.registry.folder / "2", ignore_errors=True)
    world.registry.add("2")
    world.registry.champion = "2"  # the alias has moved in between: tried again
    world.refresher.check()
    assert world.serving == "2"


@pytest.mark.parametrize(("error", "traced"), [(ConfigError("no such policy"), False), (ValueError("surprise"), True)])
def test_any_other_error_of_a_version_refuses_it_once(
    world: World, error: Exception, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loads = []

    def load(version: int) -> Model:
        loads.append(version)
        raise error

    looking = Refresher(world.scorer, lambda: lifecycle.alone(2), load, world.metrics)
    for _ in range(3):
        looking.check()
    assert (world.serving, loads, looking.registry_down) == ("1", [2], False)
    assert world.metric('fraud_model_swaps_total{outcome="refused"}') == 1
    assert not world.scorer.registry_gone
    assert said(caplog) == [("ERROR", f"model 1 serves on, model 2 must not: {error}")]
    assert (caplog.records[0].exc_info is not None) is traced


@pytest.mark.parametrize(("error", "down"), [(RegistryError("refused"), True), (NotFoundError("deleted"), False)])
def test_a_version_that_the_registry_does_not_give_is_tried_again(world: World, error: Exception, down: bool) -> None:
    errors = [error]

    def load(version: int) -> Model:
        if errors:
            raise errors.pop()
        return world.registry.load(version)

    looking = Refresher(world.scorer, lambda: lifecycle.alone(2), load, world.metrics)
    looking.check()
    assert (world.serving, looking.registry_down) == ("1", down)
    looking.check()
    assert (world.serving, looking.registry_down) == ("2", False)


@pytest.mark.parametrize("where", ["named", "load"])
def test_a_registry_that_hangs_counts_as_down_and_is_not_asked_twice(
    world: World, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    hang = threading.Event()
    slow = Refresher(
        world.scorer, world.registry.named, world.registry.load, world.metrics, answer_s=0.01, fetch_s=0.01
    )
    if where == "named":
        world.registry.hang = hang
    else:

        def named() -> Rollout:
            world.registry.hang = hang
            return lifecycle.alone(2)

        slow = Refresher(world.scorer, named, world.registry.load, world.metrics, answer_s=60, fetch_s=0.01)
    for _ in range(3):
        slow.check()
    assert slow.registry_down
    assert (world.registry.asked.acquire(blocking=False), len(world.registry.loads)) == (
        where == "named",
        int(where == "load"),
    )
    assert not world.registry.asked.acquire(blocking=False)
    assert [level for level, _ in said(caplog)] == ["WARNING"]
    assert "did not answer within 0.01 s" in said(caplog)[0][1]
    hang.set()
    calls = [thread for thread in threading.enumerate() if thread.name == "model-refresh-call"]
    for thread in calls:
        thread.join()
    world.registry.hang = None
    world.refresher.check()
    assert not world.refresher.registry_down
    assert world.serving == "1"


def test_it_looks_again_and_again_until_it_is_stopped(world: World) -> None:
    running = Refresher(world.scorer, world.registry.named, world.registry.load, world.metrics, every_s=0.001)
    running.start()
    for _ in range(3):
        assert world.registry.asked.acquire(timeout=30)
    running.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "model-refresh"]
    running.stop()  # twice is fine
    world.refresher.stop()  # and so is before the start


def test_a_stop_does_not_wait_for_a_registry_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.scoring.refresh.STOP_S", 0.01)
    world.registry.hang, world.registry.champion = threading.Event(), "2"
    running = Refresher(world.scorer, world.registry.named, world.registry.load, world.metrics, every_s=0.001)
    running.start()
    assert world.registry.asked.acquire(timeout=30)
    running.stop()
    waiting = [thread for thread in threading.enumerate() if thread.name.startswith("model-refresh")]
    assert waiting
    assert all(thread.daemon for thread in waiting)
    world.registry.hang.set()
    for thread in waiting:
        thread.join()
    assert world.serving == "1"  # what came after the stop is not used


def test_each_decision_is_by_exactly_one_version_while_models_change(world: World) -> None:
    models = {str(version): world.registry.load(version) for version in (1, 2, 3)}
    done = threading.Event()

    def swap() -> int:
        swaps = 0
        while not done.is_set():
            world.registry.champion = str(1 + swaps % 3)
            world.refresher.check()
            swaps += 1
        return swaps

    def decide(worker: int) -> list[list[Decision]]:
        """Batch after batch until this worker has seen another model than at first."""
        decided: list[list[Decision]] = []
        while len(decided) < 500 and (len(decided) < 10 or len({batch[0].model_version for batch in decided}) < 2):
            first = 100_000 * worker + 5 * len(decided)
            decided.append(world.scorer.score([transaction(first + j, customer=f"c{worker}-{j}") for j in range(5)]))
        return decided

    with ThreadPoolExecutor(3) as pool:
        swapping = pool.submit(swap)
        try:
            decided = [batch for batches in pool.map(decide, (0, 1)) for batch in batches]
        finally:
            done.set()
        assert swapping.result() > 1
    for decisions in decided:
        (version,) = {decision.model_version for decision in decisions}
        vectors = np.array([decision.features() for decision in decisions])
        expected = models[version].bundle.runtime.score(to_model(vectors))
        np.testing.assert_array_equal([decision.score for decision in decisions], expected)
    assert len({decisions[0].model_version for decisions in decided}) > 1


@pytest.mark.parametrize(
    ("name", "refresh_s", "looks"),
    [("champion", 10, True), ("challenger", 0.5, True), ("champion", 0, False), ("7", 10, False)],
)
def test_a_version_number_is_pinned(world: World, name: str, refresh_s: float, looks: bool) -> None:
    source = SimpleNamespace(named=world.registry.named, load=world.registry.load)
    made = refresher(Settings(refresh_s=refresh_s), name, world.scorer, source, world.metrics)  # type: ignore[arg-type]
    assert (made is not None) is looks


def canary(revision: int = 2, *versions: int, entity: str | None = "customer", mode: Mode = Mode.canary) -> Rollout:
    """Champion 1 and challengers with a quarter of the customers each."""
    challengers = tuple(
        Challenger(version, ((i * 250_000, (i + 1) * 250_000),)) for i, version in enumerate(versions or (2,))
    )
    experiment = Experiment(mode, challengers, entity, "salt", 0)
    return Rollout(1, lifecycle.alone(1).change, experiment, revision=revision)


def versions_of(world: World, first: int, count: int = 200) -> list[tuple[str, str]]:
    decisions = world.scorer.score([transaction(first + i, customer=f"c{i}") for i in range(count)])
    return [(decision.model_version, decision.arm) for decision in decisions]


def test_a_rollout_reaches_a_running_scorer_and_ends(world: World) -> None:
    world.registry.document = canary()
    world.refresher.check()
    during = versions_of(world, 0)
    assert set(during) == {("1", "champion"), ("2", "challenger-2")}
    assert 25 < during.count(("2", "challenger-2")) < 75
    assert world.metric('fraud_rollout_share{arm="challenger-2",version="2"}') == 0.25
    assert world.metric('fraud_rollout_share{arm="champion",version="1"}') == 0.75
    world.refresher.check()
    assert versions_of(world, 1_000) == during, "an entity stays in its arm"
    assert world.registry.loads == [2], "a model that serves is not loaded again"
    world.registry.document = None
    world.refresher.check()
    assert set(versions_of(world, 2_000)) == {("1", "champion")}
    assert world.metric('fraud_rollout_share{arm="challenger-2",version="2"}') == 0


def test_a_promotion_within_a_rollout_serves_the_model_that_is_loaded(world: World) -> None:
    world.registry.document = canary()
    world.refresher.check()
    world.registry.document = Rollout(2, lifecycle.alone(2).change, revision=3)
    world.refresher.check()
    assert (world.serving, world.registry.loads) == ("2", [2])


@pytest.mark.parametrize("damage", [break_hash, break_scores, break_features, shutil.rmtree])
def test_a_challenger_that_must_not_serve_leaves_everything_to_the_champion(world: World, damage: object) -> None:
    assert callable(damage)
    damage(world.registry.folder / "2")
    told: list[tuple[Rollout, str]] = []
    world.refresher.on_refused = lambda rollout, reason: told.append((rollout, reason))
    world.registry.document = canary()
    for _ in range(3):
        world.refresher.check()
    assert set(versions_of(world, 0)) == {("1", "champion")}
    ((refused, reason),) = told
    assert refused == world.registry.document
    assert "a service cannot serve the challenger" in reason
    assert world.metric('fraud_model_swaps_total{outcome="refused"}') == 1
    world.registry.document = canary(3, 3)  # another rollout, another challenger
    world.refresher.check()
    assert ("3", "challenger-3") in versions_of(world, 1_000)


def test_a_rollout_by_an_entity_that_is_not_there_is_refused(world: World) -> None:
    told: list[str] = []
    world.refresher.on_refused = lambda rollout, reason: told.append(reason)
    world.registry.document = canary(entity="device")
    world.refresher.check()
    assert set(versions_of(world, 0)) == {("1", "champion")}
    assert "the schema has: customer" in told[0]


def test_a_registry_that_goes_in_mid_swap_leaves_the_champion(world: World) -> None:
    world.registry.document = canary(2, 2, 3)
    world.registry.loads.clear()

    def load(version: int) -> Model:
        if version == 3:
            raise RegistryError("connection reset")
        return world.registry.load(version)

    looking = Refresher(world.scorer, world.registry.named, load, world.metrics)
    looking.check()
    assert not looking.registry_down, "it has said what serves"
    assert set(versions_of(world, 0)) == {("1", "champion")}, "not half of a rollout"
    world.refresher.check()
    assert {arm for _, arm in versions_of(world, 1_000)} == {"champion", "challenger-2", "challenger-3"}


def test_a_withdrawn_rollout_stays_withdrawn_until_the_document_changes(world: World) -> None:
    world.registry.document = canary()
    world.refresher.check()
    world.refresher.withdraw(canary(7))
    assert ("2", "challenger-2") in versions_of(world, 0), "another rollout than the one that runs"
    world.refresher.withdraw(world.registry.document)
    assert set(versions_of(world, 1_000)) == {("1", "champion")}
    world.refresher.check()
    assert set(versions_of(world, 2_000)) == {("1", "champion")}, "the registry does not know yet"
    world.registry.document = canary(9)
    world.refresher.check()
    assert ("2", "challenger-2") in versions_of(world, 3_000)
