"""A challenger is better only by the margin, only for sure, and only on rows that neither model was trained on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.offline.duckdb import DuckDBOfflineStore
from fraudml.decisions.costs import Costs
from fraudml.events.source import arrow_schema
from fraudml.features.spec import Aggregation, FeatureSet, WindowFeature
from fraudml.models.bundle import Thresholds, TrainingRecord
from fraudml.training import challenge, dataset, split
from fraudml.training.challenge import Comparison, Difference, Ranking
from tests.support.scoring import FEATURES, SCHEMA, SECOND, T0, bundle, decision, transaction
from tests.support.training import DAY_US, make_dataset

DATA = make_dataset(3_000)
GOOD = 1 / (1 + np.exp(4.5 - 1.8 * DATA.x[:, 0] - DATA.x[:, 1].astype(np.float64)))
POOR = 1 / (1 + np.exp(4.5 - 1.0 * DATA.x[:, 0].astype(np.float64)))
SAME = Thresholds(0.2, 0.8)


def compared(champion: np.ndarray, challenger: np.ndarray) -> Comparison:
    return challenge.compare(DATA, (champion, challenger), (SAME, SAME), Costs(), 2, unknown_declines=3, seed=0)


@given(
    arrays.arrays(np.bool_, 30).filter(lambda fraud: fraud.any()),
    arrays.arrays(np.float64, 30, elements=st.sampled_from([0.1, 0.2, 0.5, 0.9])),
    arrays.arrays(np.int64, 30, elements=st.integers(0, 3)),
)
def test_average_precision_of_weighted_rows_is_that_of_repeated_ones(
    fraud: np.ndarray, scores: np.ndarray, weight: np.ndarray
) -> None:
    found = Ranking(fraud, scores, np.arange(30)).average_precision(weight)
    repeated = np.repeat(np.arange(30), weight)
    if fraud[repeated].any():
        assert found == pytest.approx(average_precision_score(fraud[repeated], scores[repeated]))
    else:
        assert np.isnan(found)


def test_a_better_challenger() -> None:
    found = compared(POOR, GOOD)
    assert found.average_precision.low > 0
    assert found.better(0.01)
    assert not found.better(found.average_precision.value + 1e-9)
    assert found.challenger.metrics["average_precision"] - found.champion.metrics["average_precision"] == pytest.approx(
        found.average_precision.value
    )
    assert (found.rows, found.frauds, found.unknown_declines) == (len(DATA), DATA.frauds, 3)
    assert found.challenger.money["saved_per_day"] > found.champion.money["saved_per_day"]


def test_a_worse_one_and_an_equal_one() -> None:
    assert not compared(GOOD, POOR).better(0.0)
    equal = compared(GOOD, GOOD).average_precision
    assert equal == Difference(0, 0, 0)
    assert not compared(GOOD, GOOD).better(0.0)


def test_a_difference_that_may_be_chance_is_none() -> None:
    few = DATA.take(slice(0, 300))
    rng = np.random.default_rng(5)
    noisy = [GOOD[:300] * rng.uniform(0.7, 1, 300) for _ in range(2)]
    found = challenge.difference(few, noisy[0], noisy[1], seed=0)
    assert found.low < 0 < found.high


def test_rows_of_one_entity_are_drawn_together() -> None:
    """With fewer independent entities the same rows say less."""
    alone = replace(DATA, entity=np.full(len(DATA), -1))
    crowded = replace(DATA, entity=DATA.entity % 15)
    wide, narrow = (challenge.difference(data, POOR, GOOD, seed=0) for data in (crowded, alone))
    assert wide.value == narrow.value
    assert challenge.defrauded(alone) == DATA.frauds
    assert challenge.defrauded(crowded) <= 15


@pytest.mark.parametrize("days", [5, 12, 20, 36])
def test_the_test_period_lies_after_the_champions_training(days: int) -> None:
    until_us = int(DATA.event_time_us[0]) + days * DAY_US
    share = challenge.share_to_hold_back(DATA, until_us, 0.2)
    assert 0 < share <= 0.2
    rows = challenge.held_back(DATA, share)
    assert rows.event_time_us.min() >= until_us
    fresh = DATA.event_time_us >= until_us
    assert len(rows) <= fresh.sum() / 2 + 1, "the challenger can learn from the other half"
    parts = split.by_time(DATA, test_share=share)
    assert np.array_equal(rows.event_time_us, DATA.event_time_us[parts.test]), "what is measured is what was counted"


def test_nothing_has_come_since_the_champions_training() -> None:
    share = challenge.share_to_hold_back(DATA, int(DATA.event_time_us[-1]) + 1, 0.2)
    assert share == 0
    assert challenge.defrauded(challenge.held_back(DATA, share)) == 0


def test_what_has_no_label_is_in_no_test() -> None:
    data = replace(DATA, y=np.where(np.arange(len(DATA)) < 2_000, DATA.y, np.int8(-1)))
    until_us = int(DATA.event_time_us[1_000])
    rows = challenge.held_back(data, challenge.share_to_hold_back(data, until_us, 0.5))
    assert (rows.y >= 0).all()
    assert len(rows) == pytest.approx(500, abs=2)


def test_a_champion_with_other_features_scores_the_same_rows(tmp_path: Path) -> None:
    wider = FeatureSet(SCHEMA, [*FEATURES.features, WindowFeature("n_2d", "customer", Aggregation.count, "2d")])
    rows = [transaction(i, amount=100 * i) for i in (1, 2, 2_000, 2_001, 2_002)]
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)) as log:
        log.claim()
        log.append([decision(event, i) for i, event in enumerate(rows, 1)])
        with closing(DuckDBOfflineStore(temp_directory=tmp_path)) as store:
            store.put(pa.RecordBatchReader.from_batches(arrow_schema(SCHEMA), log.replay()))
            data = dataset.build(store, wider)
            champion = bundle()
            champion.manifest = msgspec.structs.replace(
                champion.manifest, training=TrainingRecord(0, T0 + 1_000 * SECOND, 1, 1, "", 0)
            )
            found = challenge.champion_scores(champion, data, wider, store)
            same = challenge.champion_scores(champion, dataset.build(store, FEATURES), FEATURES, store)
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == same[2:].tolist() == champion.runtime.score(data.x[2:, :5]).tolist()
