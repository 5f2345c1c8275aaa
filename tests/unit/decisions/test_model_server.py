"""A model server that scores or does not: what decisions say of it, whatever it answers and whoever else asks."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml.adapters.cache.memory import MemoryPredictionCache
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.cache import ScoreCache
from fraudml.decisions.circuit import Circuit
from fraudml.decisions.explanation import explain_transaction
from fraudml.decisions.model import Model
from fraudml.decisions.model_server import ServedModel
from fraudml.decisions.policy import Policy, WhenDegraded
from fraudml.decisions.scorer import Scorer
from fraudml.errors import ModelServerError
from fraudml.models import bundle as bundles
from fraudml.models.bundle import Bundle
from tests.support.bundles import make_bundle
from tests.support.scoring import FEATURES, SCHEMA, ReferenceStore, transaction
from tests.support.waiting import until


class Remote:
    """The bundle's own model, said to be elsewhere; raises ``error``."""

    place = "there"

    def __init__(self, bundle: Bundle) -> None:
        self._runtime = bundle.runtime
        self.error: Exception | None = None
        self.asked = 0

    def prepare(self) -> None:
        self._answer()

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        self._answer()
        return self._runtime.score(vectors)

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        self._answer()
        return self._runtime.log_odds(vectors)

    def _answer(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    make_bundle(tmp_path / "bundle", FEATURES)
    return bundles.load(tmp_path / "bundle", version="1")


@pytest.fixture
def remote(bundle: Bundle) -> Remote:
    return Remote(bundle)


@pytest.fixture
def served(bundle: Bundle, remote: Remote) -> ServedModel:
    made = ServedModel(remote, bundle, Circuit(60.0, 60.0))
    made.check()
    return made


@pytest.mark.parametrize("error", [ModelServerError("it is gone"), ZeroDivisionError("a defect")])
def test_a_decision_says_who_scored_and_is_worth_the_same(
    bundle: Bundle, remote: Remote, served: ServedModel, tmp_path: Path, error: Exception
) -> None:
    policy = Policy.of(bundle.manifest.thresholds, WhenDegraded.closed)
    store, log = ReferenceStore(), SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)
    model = Model(bundle, policy, server=served)
    scorer = Scorer(model, store, log)
    (by_server,) = scorer.score([transaction(1)])
    remote.error = error
    (by_copy,) = scorer.score([transaction(2, customer="c2")])
    assert (by_server.degraded, by_copy.degraded) == ((), ("model_server",))
    assert (by_server.score, by_server.action) == (by_copy.score, by_copy.action)
    assert scorer.degraded == ("model_server",)
    explained = explain_transaction(scorer.lineup, scorer.recorder, store, transaction(3))
    assert explained.degraded == ("model_server",)
    log.close()


def test_a_cached_score_was_made_without_asking(bundle: Bundle, remote: Remote, served: ServedModel) -> None:
    model = Model(bundle, cache=ScoreCache(MemoryPredictionCache(100, 60.0)), server=served)
    vectors = np.zeros((2, len(FEATURES.inputs)))
    first = model.scores(vectors)
    asked = remote.asked
    remote.error = ModelServerError("it is gone")
    assert model.scores(vectors) == first
    assert (remote.asked, model.take_lost()) == (asked, ())
    model.scores(vectors + 1)
    assert (model.server_up, model.take_lost(), model.take_lost()) == (False, ("model_server",), ())


def test_what_another_thread_got_is_not_this_ones(bundle: Bundle, remote: Remote, served: ServedModel) -> None:
    remote.error = ModelServerError("it is gone")
    other = threading.Thread(target=served.score, args=(np.zeros((1, len(FEATURES.inputs)), np.float32),))
    other.start()
    other.join()
    assert (served.up, served.take_fell_back()) == (False, False)


def test_it_is_tested_before_it_is_used_again(bundle: Bundle, remote: Remote) -> None:
    now = 0.0
    circuit = Circuit(1.0, 1.0, clock=lambda: now, chance=lambda: 1.0)
    served = ServedModel(remote, bundle, circuit)
    remote.error = ModelServerError("it is gone")
    served.check()
    vectors = np.zeros((1, len(FEATURES.inputs)), np.float32)
    served.score(vectors)
    assert remote.asked == 1  # it is left alone
    now, remote.error = 2.0, None
    served.score(vectors)
    assert served.take_fell_back()  # a thread tests it; nobody waits for that
    until(lambda: served.up)
    served.score(vectors)
    assert not served.take_fell_back()
