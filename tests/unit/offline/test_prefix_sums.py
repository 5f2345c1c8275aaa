"""The arithmetic of the fast path, near the limits where it has to stay exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.offline import _prefix_sums
from fraudml.adapters.offline._prefix_sums import Stream, Window, fill, make_column, sort_stream, sums_fit
from fraudml.features.reference import aggregate, as_float
from fraudml.features.spec import Aggregation

FUNCTIONS = [Aggregation.count, Aggregation.sum, Aggregation.mean, Aggregation.std]
# The largest magnitude of which eight squares fit: 16 * x^2 < 2^63.
LARGEST = 759_250_124
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 30),
        st.none() | st.sampled_from([LARGEST, LARGEST - 1, -LARGEST, 0, 1]) | st.integers(-LARGEST, LARGEST),
    ),
    min_size=1,
    max_size=8,
)


def compute(events: list[tuple[int, int, int | None]], length: int, resolution: int) -> dict[Aggregation, list[float]]:
    """Every function over windows of the events themselves, in the events' order."""
    codes, times = (np.array([event[i] for event in events], np.int64) for i in (0, 1))
    values = np.array([event[2] or 0 for event in events], np.int64)
    missing = np.array([event[2] is None for event in events])
    order = sort_stream(codes, times)
    column = make_column(values[order], missing[order], squares=True)
    stream = Stream(codes[order], times[order], {"x": column})
    windows = [Window(length, resolution, agg.value, "x", np.empty(len(events))) for agg in FUNCTIONS]
    fill(stream, order, stream, windows)
    return {agg: window.out.tolist() for agg, window in zip(FUNCTIONS, windows, strict=True)}


@pytest.mark.parametrize("small_blocks", [False, True])
@settings(max_examples=60)
@given(events=EVENTS, steps=st.integers(1, 6), resolution=st.sampled_from([1, 5]))
def test_windows_equal_the_reference(
    small_blocks: bool, events: list[tuple[int, int, int | None]], steps: int, resolution: int
) -> None:
    length = steps * resolution
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:  # a block for every entity, by rows or by the size of keys
            patch.setattr(_prefix_sums, "BLOCK_ROWS", 1)
            patch.setattr(_prefix_sums, "KEY_LIMIT", 1)
        found = compute(events, length, resolution)
    for i, (code, t, _) in enumerate(events):
        start = (t - length) // resolution * resolution
        inside = [value for other, time, value in events if other == code and start <= time < t]
        for agg in FUNCTIONS:
            wanted = as_float(aggregate(agg, inside))
            assert found[agg][i] == pytest.approx(wanted, rel=4e-15, abs=0, nan_ok=True)


def test_the_limit_is_where_64_bits_end() -> None:
    assert sums_fit(8, LARGEST, squares=True)
    assert not sums_fit(8, LARGEST + 1, squares=True)
    assert sums_fit(8, 10**12, squares=False)


def test_sums_are_exact_although_the_prefix_wraps_around() -> None:
    """Each entity stays within 64 bits; all of them together do not."""
    events = [(code, time, LARGEST - time) for code in range(40) for time in range(3)]
    found = compute(events, 30, 1)
    for i, (_, time, _) in enumerate(events):
        inside = [LARGEST - earlier for earlier in range(time)]
        assert found[Aggregation.sum][i] == sum(inside)
        wanted = as_float(aggregate(Aggregation.std, inside))
        assert found[Aggregation.std][i] == pytest.approx(wanted, rel=4e-15, nan_ok=True)


def test_no_events_at_all() -> None:
    nothing = np.zeros(0, np.int64)
    targets = Stream(np.array([0, 1]), np.array([5, 5]))
    window = Window(10, 1, "count", None, np.empty(2))
    fill(targets, np.arange(2), Stream(nothing, nothing), [window])
    assert window.out.tolist() == [0, 0]
    fill(Stream(nothing, nothing), nothing, targets, [window])
