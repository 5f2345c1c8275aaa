"""A split by time never learns from what was not known yet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.errors import TrainingError
from fraudml.training import split
from fraudml.training.dataset import NEVER_KNOWN, Dataset

DAY_US = 86_400_000_000


def dataset(y: list[int], days: list[float], known: list[float] | None = None) -> Dataset:
    """``known``: days at which the labels become known; by default at once."""
    times = np.round(np.array(days) * DAY_US).astype(np.int64)
    known_at = times if known is None else np.round(np.array(known) * DAY_US).astype(np.int64)
    n = len(y)
    return Dataset(
        np.zeros((n, 1), np.float32), np.array(y, np.int8), times, known_at, np.zeros(n), np.zeros(n, np.int64)
    )


def alternating(n: int, *, days: float = 100, delay: float = 0) -> Dataset:
    """Every other row a fraud, evenly over the days."""
    times = np.linspace(0, days, n)
    return dataset([i % 2 for i in range(n)], times.tolist(), (times + delay).tolist())


def test_shares_of_rows_by_hand() -> None:
    parts = split.by_time(alternating(100))
    assert np.flatnonzero(parts.test).tolist() == list(range(80, 100))
    assert np.flatnonzero(parts.valid).tolist() == list(range(64, 80))
    assert np.flatnonzero(parts.train).tolist() == list(range(64))


def test_rows_whose_label_was_not_known_when_the_test_began_are_in_no_part() -> None:
    data = alternating(101, delay=7)
    parts = split.by_time(data)
    assert parts.test_start_us == 80 * DAY_US
    used = parts.train | parts.valid | parts.test
    # known on time are the rows up to day 73; 73 itself is a fraud without a known genuine row after it
    assert np.flatnonzero(~used).tolist() == list(range(73, 80))
    assert data.known_at_us[parts.train | parts.valid].max() == parts.test_start_us - DAY_US


def test_unlabelled_rows_are_in_no_part() -> None:
    data = alternating(200)
    data.y[::10] = -1
    parts = split.by_time(data)
    assert not (parts.train | parts.valid | parts.test)[::10].any()


@st.composite
def histories(draw: st.DrawFn) -> Dataset:
    n = draw(st.integers(120, 200))
    step = draw(st.sampled_from([0.25, 1.0, 5.0]))  # coarse times: many ties
    seed = draw(st.integers(0, 1_000))
    rng = np.random.default_rng(seed)
    days = np.sort(np.floor(rng.uniform(0, 60, n) / step) * step)
    delays = rng.exponential(draw(st.sampled_from([0.1, 3.0, 8.0])), n)
    y = rng.choice([0, 1, 0, 1, -1], n)
    data = dataset(y.tolist(), days.tolist(), (days + delays).tolist())
    never = rng.random(n) < 0.05
    data.known_at_us[never] = NEVER_KNOWN
    return data


@given(histories(), st.sampled_from([0.1, 0.2, 0.4]))
def test_nothing_is_learnt_from_the_future(data: Dataset, share: float) -> None:
    try:
        parts = split.by_time(data, test_share=share)
    except TrainingError:
        return
    learnt = parts.train | parts.valid
    start = parts.test_start_us
    assert (data.known_at_us[learnt] <= start).all()
    assert (data.event_time_us[learnt] < start).all()
    assert (data.event_time_us[parts.test] >= start).all()
    assert data.event_time_us[parts.train].max() < data.event_time_us[parts.valid].min(), "no time on both sides"
    assert not (parts.train & parts.valid).any()
    assert (data.y[learnt | parts.test] >= 0).all()
    assert parts.test.sum() == ((data.y >= 0) & (data.event_time_us >= start)).sum()


def test_the_property_above_is_not_about_nothing() -> None:
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 60, 200))
    parts = split.by_time(dataset((np.arange(200) % 2).tolist(), days.tolist(), (days + 3).tolist()))
    assert min(parts.train.sum(), parts.valid.sum(), parts.test.sum()) >= 20


def test_frauds_known_early_are_not_learnt_without_their_genuine_neighbours() -> None:
    """Frauds reported at once, genuine rows counting as such after 30 days: the last 30 days would be all fraud."""
    days = np.linspace(0, 100, 401)
    y = np.arange(401) % 2
    data = dataset(y.tolist(), days.tolist(), np.where(y == 1, days, days + 30).tolist())
    known = split.known_by(data, 60 * DAY_US)
    assert data.event_time_us[known].max() == 30 * DAY_US
    assert 0.4 < data.y[known].mean() < 0.6


def test_mature_rows_are_those_known_at_the_end_of_the_data() -> None:
    data = alternating(101, delay=7)
    data.y[3] = -1
    # row 93 is a fraud without a known genuine row after it
    assert np.flatnonzero(~split.mature(data)).tolist() == [3, *range(93, 101)]


def test_too_few_frauds() -> None:
    with pytest.raises(TrainingError, match="only 14 labelled frauds among 1,000 transactions; 15 are needed"):
        split.by_time(dataset([1] * 14 + [0] * 986, np.linspace(0, 9, 1_000).tolist()))


def test_a_history_shorter_than_the_label_delay() -> None:
    with pytest.raises(TrainingError, match=r"shorter than the label delay; set a shorter schema\.label\.delay"):
        split.by_time(alternating(100, days=10, delay=30))


def test_all_at_one_time() -> None:
    with pytest.raises(TrainingError):
        split.by_time(dataset([0, 1] * 50, [0.0] * 100))


@pytest.mark.parametrize(
    ("y", "part"),
    [
        ([0] * 130 + [0, 1] * 40, "train"),
        ([0, 1] * 60 + [0] * 40 + [0, 1] * 20, "valid"),
        ([0, 1] * 80 + [0] * 40, "test"),
        ([0, 1] * 80 + [1] * 40, "test"),
    ],
)
def test_a_part_without_both_classes_is_named(y: list[int], part: str) -> None:
    with pytest.raises(TrainingError, match=f"the {part} period has .* use a longer history"):
        split.by_time(dataset(y, np.linspace(0, 100, len(y)).tolist()))
