"""A challenger that is slow, or cannot be had, never holds up what matters: the champion, and the end of another one.

The registry is the real one; loads are held back by events.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from fraudml import wiring
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.model import Model
from fraudml.decisions.scorer import Scorer
from fraudml.models import lifecycle
from fraudml.models.registry import Registry
from fraudml.models.rollout import Mode, Plan, Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.refresh import Refresher
from fraudml.settings import Settings
from tests.support import prepared
from tests.support.bundles import make_bundle
from tests.support.scoring import FEATURES, SCHEMA, ReferenceStore, transaction

LONG_S = 60.0
SHORT_S = 0.05  # how long a look waits for what is held back
CALL = "model-refresh-call"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the versions 1 to 4."""
    folder = tmp_path_factory.mktemp("challengers")
    registry = wiring.registry(Settings(_env_file=None, home=prepared.empty_registry(folder / "home")))
    for number in (1, 2, 3, 4):
        make_bundle(folder / str(number), FEATURES, bias=-float(number))
        registry.register(folder / str(number))
    return folder / "home"


class World:
    """A registry in which version 2 is champion after 1, no bundle kept here, and a scorer that follows."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.settings = Settings(_env_file=None, home=home)
        self.registry: Registry = wiring.registry(self.settings)
        for version in (1, 2):  # what an earlier test has left ends with it
            lifecycle.promote(self.registry, version, "good")
        shutil.rmtree(home / "bundles", ignore_errors=True)
        self.source = wiring.model_source(self.settings, FEATURES)
        self.loads: list[int] = []
        self.gates: dict[int, threading.Event] = {}
        self.loading = threading.Semaphore(0)  # released when a load has come to its gate
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.scorer = Scorer(self.source.load(2), ReferenceStore(), self.log)
        self.metrics = Metrics()
        self._number = 0

    def load(self, version: int) -> Model:
        self.loads.append(version)
        if version in self.gates:
            self.loading.release()
            assert self.gates[version].wait(LONG_S)
        return self.source.load(version)

    def hold(self, version: int) -> None:
        self.gates[version] = threading.Event()

    def let(self, version: int) -> None:
        """Let a load go on, to its end."""
        self.gates.pop(version).set()
        for thread in threading.enumerate():
            if thread.name == CALL:
                thread.join()

    def refresher(self, every_s: float = SHORT_S, fetch_s: float = LONG_S) -> Refresher:
        return Refresher(self.scorer, self.source.named, self.load, self.metrics, every_s=every_s, fetch_s=fetch_s)

    def start(self, *versions: int) -> Rollout:
        plan = Plan(Mode.canary, dict.fromkeys(versions, 0.3), "customer")
        return lifecycle.start(self.registry, plan, "try it")

    def arms(self) -> set[str]:
        """Who decides, all with the model of their arm."""
        first, self._number = self._number, self._number + 100
        decisions = self.scorer.score([transaction(first + i, customer=f"c{i}") for i in range(100)])
        for decision in decisions:
            version = self.scorer.model.version if decision.arm == "champion" else decision.arm.rpartition("-")[2]
            assert (decision.model_version, decision.degraded) == (version, ())
        return {decision.arm for decision in decisions}


@pytest.fixture
def world(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    caplog.set_level(logging.INFO, "fraudml.scoring.refresh")
    made = World(home, tmp_path)
    yield made
    for gate in made.gates.values():
        gate.set()
    for thread in threading.enumerate():
        if thread.name == CALL:
            thread.join()
    made.log.close()


def look(refresher: Refresher, reached: Callable[[], bool]) -> None:
    """Look until what is loaded without being held back is here."""
    for _ in range(1_000):
        refresher.check()
        if reached():
            return
    pytest.fail("what should serve never did")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_rollback_does_not_wait_for_the_download_of_a_challenger(world: World) -> None:
    looking = world.refresher()
    world.hold(3)
    started = world.start(3)
    looking.check()
    assert world.loading.acquire(timeout=LONG_S)
    assert world.arms() == {"champion"}
    assert world.scorer.lineup.rollout == msgspec.structs.replace(started, experiment=None)
    lifecycle.rollback(world.registry, "2 is worse")
    look(looking, lambda: world.scorer.model.version == "1")
    assert (world.arms(), looking.registry_down) == ({"champion"}, False)
    world.let(3)
    looking.check()
    assert (world.scorer.lineup.versions, world.loads) == (("1",), [3, 1]), "what was loaded is not used"


def test_a_promotion_is_not_held_up_by_the_challenger_that_comes_with_it(world: World) -> None:
    world.hold(4)
    lifecycle.promote(world.registry, 3, "better")
    world.start(4)
    looking = world.refresher()
    look(looking, lambda: world.scorer.model.version == "3")
    assert (world.arms(), looking.registry_down) == ({"champion"}, False)
    look(looking, lambda: world.loading.acquire(blocking=False))
    world.let(4)
    look(looking, lambda: len(world.scorer.lineup.versions) == 2)
    assert world.arms() == {"champion", "challenger-4"}
    assert world.loads == [3, 4]


def test_a_challenger_that_is_promoted_while_it_is_loaded_is_loaded_once(world: World) -> None:
    world.hold(3)
    world.start(3)
    looking = world.refresher()
    looking.check()
    assert world.loading.acquire(timeout=LONG_S)
    lifecycle.promote(world.registry, 3, "in a hurry")
    looking.check()
    assert (world.scorer.model.version, looking.registry_down) == ("2", False)
    world.let(3)
    looking.check()
    assert (world.scorer.model.version, world.loads) == ("3", [3])


def test_an_aborted_challenger_decides_no_more_while_the_next_one_is_loaded(world: World) -> None:
    first = world.start(3)
    looking = world.refresher(every_s=LONG_S)
    looking.check()
    assert world.arms() == {"champion", "challenger-3"}
    lifecycle.abort(world.registry, "worse")
    world.hold(4)
    world.start(4)
    with ThreadPoolExecutor(2) as pool:
        looks = pool.submit(looking.check)
        assert world.loading.acquire(timeout=LONG_S)
        assert world.arms() == {"champion"}
        pool.submit(looking.withdraw, first).result(LONG_S / 2)  # the guard was at it, too, and must not wait
        assert not looks.done()
        world.let(4)
        looks.result(LONG_S)
    assert world.arms() == {"champion", "challenger-4"}
    assert world.loads == [3, 4]


@pytest.mark.parametrize("how", ["withdrawn", "aborted"])
def test_a_challenger_whose_rollout_ends_while_it_is_loaded_never_decides(world: World, how: str) -> None:
    world.hold(3)
    started = world.start(3)
    looking = world.refresher(every_s=LONG_S)
    with ThreadPoolExecutor(2) as pool:
        looks = pool.submit(looking.check)
        assert world.loading.acquire(timeout=LONG_S)
        if how == "withdrawn":
            pool.submit(looking.withdraw, started).result(LONG_S / 2)
        else:
            lifecycle.abort(world.registry, "no")
        world.let(3)
        looks.result(LONG_S)
    for _ in range(2):
        assert world.arms() == {"champion"}
        assert world.scorer.lineup.versions == ("2",)
        looking.check()
    assert world.loads == [3]


def test_a_challenger_that_the_registry_does_not_give_never_discards_the_champion(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    store = world.settings.home / "artifacts"
    lifecycle.promote(world.registry, 3, "better")
    world.source.load(3)  # the copy that is kept here
    revision = world.start(4).revision
    hidden = store.rename(store.with_name("hidden"))
    looking = world.refresher(every_s=LONG_S)
    looking.on_refused = lambda rollout, reason: told.append(reason)
    for _ in range(3):
        looking.check()
        assert (world.scorer.model.version, world.arms(), looking.registry_down) == ("3", {"champion"}, False)
    assert world.loads == [3, 4, 4, 4], "tried again at each look"
    assert not world.scorer.registry_gone
    (line,) = said(caplog)
    assert line.startswith(f"the champion decides on everything, revision {revision} lacks a challenger: ")
    hidden.rename(store)
    looking.check()
    assert world.arms() == {"champion", "challenger-4"}
    assert (said(caplog), told) == ([line], [])
    assert caplog.records[-1].getMessage() == f"revision {revision} has its challengers now"


def test_a_challenger_that_takes_too_long_is_told_of_once_and_used_when_it_comes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold(3)
    world.start(3)
    looking = world.refresher(fetch_s=0.01)
    for _ in range(3):
        looking.check()
        assert (world.arms(), looking.registry_down) == ({"champion"}, False)
    (line,) = said(caplog)
    assert "did not answer within 0.01 s" in line
    world.let(3)
    looking.check()
    assert (world.arms(), world.loads) == ({"champion", "challenger-3"}, [3])


def test_a_change_of_shares_leaves_no_gap(world: World) -> None:
    world.start(3)
    looking = world.refresher(every_s=LONG_S)
    looking.check()
    used: list[tuple[str, ...]] = []
    use = world.scorer.use
    world.scorer.use = lambda lineup: (used.append(lineup.versions), use(lineup))  # type: ignore
    lifecycle.adjust(world.registry, "good", shares={3: 0.6})
    looking.check()
    assert used == [("2", "3")]
    assert world.scorer.lineup.shares[1][2] == pytest.approx(0.6)
