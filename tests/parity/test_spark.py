"""Spark gives what ``features/reference.py`` defines."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.offline.spark import SparkOfflineStore
from tests.parity.strategies import TIMES, History, histories
from tests.parity.test_offline import by_store, check, within
from tests.support import spark

# Planning a query takes Spark a second or two, whatever the number of rows.
EXAMPLES = settings(max_examples=15)


@EXAMPLES
@given(history=histories(), since_us=st.none() | TIMES, until_us=st.none() | TIMES)
def test_spark(history: History, since_us: int | None, until_us: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SparkOfflineStore(spark.session(), Path(folder))
        check(history, by_store(store, history, since_us, until_us), within(history, since_us, until_us))
