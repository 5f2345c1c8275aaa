"""The sparse table gives the extreme of every range."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fraudml.adapters.offline._extremes import Extremes

VALUES = st.lists(st.one_of(st.none(), st.integers(-(10**12), 10**12)), min_size=1, max_size=40)


@given(VALUES, st.booleans())
def test_every_range_by_hand(values: list[int | None], smallest: bool) -> None:
    table = Extremes(np.array([math.nan if v is None else v for v in values], np.float64), smallest=smallest)
    ranges = [(start, end) for start in range(len(values) + 1) for end in range(start, len(values) + 1)]
    found = table.of(*(np.array(each, np.int64) for each in zip(*ranges, strict=True)))
    for (start, end), got in zip(ranges, found.tolist(), strict=True):
        present = [v for v in values[start:end] if v is not None]
        want = (min if smallest else max)(present, default=None)
        assert math.isnan(got) if want is None else got == want
