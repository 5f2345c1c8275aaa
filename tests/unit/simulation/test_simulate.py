"""What every simulated history has: order, identities, rates, rhythm, labels in time."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraudml.simulation import LabelDelays, SimulationConfig, simulate

DAY_MS = 86_400_000


def milliseconds(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    return table[column].cast(pa.int64()).to_numpy()


def test_the_same_seed_gives_the_same_tables_and_another_seed_others() -> None:
    config = SimulationConfig(customers=60, merchants=30, days=5, seed=3)
    first, again = list(simulate(config)), list(simulate(config))
    assert all(one.equals(two) for one, two in zip(first, again, strict=True))
    other = pa.concat_tables(simulate(dataclasses.replace(config, seed=4)))
    assert not pa.concat_tables(first).equals(other)


def test_the_truth_column_is_optional_and_changes_nothing_else() -> None:
    config = SimulationConfig(customers=60, merchants=30, days=5, seed=3)
    plain = pa.concat_tables(simulate(config))
    told = pa.concat_tables(simulate(dataclasses.replace(config, include_truth=True)))
    assert "fraud_pattern" not in plain.column_names
    assert told.drop_columns(["fraud_pattern"]).equals(plain)


def test_days_come_in_order_and_each_holds_only_its_own_events() -> None:
    config = SimulationConfig(customers=300, merchants=50, days=6)
    first_ms = int(np.datetime64(config.start, "ms").astype(np.int64))
    tables = list(simulate(config))
    assert len(tables) == config.days
    for day, table in enumerate(tables):
        times = milliseconds(table, "event_time")
        assert np.all(np.diff(times) >= 0)
        assert np.all((times - first_ms) // DAY_MS == day)


def test_ids_are_unique(history: pa.Table) -> None:
    assert pc.count_distinct(history["transaction_id"]).as_py() == history.num_rows


def test_size_and_fraud_rate_are_near_the_target(history: pa.Table, config: SimulationConfig) -> None:
    assert history.num_rows == pytest.approx(config.expected_rows, rel=0.05)
    assert pc.mean(history["is_fraud"]).as_py() == pytest.approx(config.fraud_rate, rel=0.2)


@pytest.mark.parametrize("rate", [0.0, 0.03])
def test_other_fraud_rates_are_met(rate: float) -> None:
    config = SimulationConfig(customers=400, merchants=50, days=60, fraud_rate=rate)
    history = pa.concat_tables(simulate(config))
    assert pc.mean(history["is_fraud"]).as_py() == pytest.approx(rate, rel=0.2)


def test_one_day_of_a_tiny_company_works() -> None:
    (day,) = simulate(SimulationConfig(customers=10, merchants=10, days=1))
    assert 0 < day.num_rows < 100


def test_each_terminal_belongs_to_one_merchant_and_each_merchant_is_in_one_place(history: pa.Table) -> None:
    for key, column in [
        ("terminal_id", "merchant_id"),
        ("merchant_id", "merchant_lat"),
        ("merchant_id", "merchant_category"),
        ("customer_id", "customer_lon"),
        ("customer_id", "card_country"),
    ]:
        counts = history.group_by(key).aggregate([(column, "count_distinct")])
        assert pc.max(counts[f"{column}_count_distinct"]).as_py() == 1, (key, column)


def test_values_fit_their_channel(history: pa.Table) -> None:
    online = pc.equal(history["channel"], "online")
    shop = history.filter(pc.invert(online))
    web = history.filter(online)
    assert shop["ip_country"].null_count == shop.num_rows
    assert web["ip_country"].null_count == web["device_id"].null_count == 0
    assert 0 < web["email_domain"].null_count < web.num_rows
    taps = history.filter(pc.equal(history["entry_mode"], "contactless"))
    assert pc.max(taps["amount"]).as_py() <= 50
    assert pc.min(history["amount"]).as_py() > 0


def test_nights_are_quiet_and_saturdays_busier_than_sundays(history: pa.Table) -> None:
    hours = np.bincount(pc.hour(history["event_time"]).to_numpy(), minlength=24)
    assert hours[2:5].mean() < 0.25 * hours[10:19].mean()
    weekday = np.bincount(pc.day_of_week(history["event_time"]).to_numpy(), minlength=7)
    assert weekday[5] > 1.2 * weekday[6]


def test_the_week_of_sales_is_a_peak(history: pa.Table) -> None:
    days = milliseconds(history, "event_time") // DAY_MS
    count = dict(zip(*(values.tolist() for values in np.unique(days, return_counts=True)), strict=True))
    sale = int(np.datetime64("2025-11-28").astype(np.int64))
    assert count[sale] > 1.2 * np.mean([count[sale - 14], count[sale - 21]])


def test_families_share_devices_and_customers_travel(history: pa.Table) -> None:
    honest = history.filter(pc.equal(history["is_fraud"], 0))
    users = honest.group_by("device_id").aggregate([("customer_id", "count_distinct")])
    assert pc.sum(pc.equal(users["customer_id_count_distinct"], 2)).as_py() > 50
    shops = honest.filter(pc.equal(honest["channel"], "pos"))
    abroad = pc.mean(pc.not_equal(shops["card_country"], shops["merchant_country"]).cast(pa.int8())).as_py()
    assert 0.02 < abroad < 0.3


def test_labels_come_after_the_transaction_soon_from_customers_late_from_chargebacks(
    history: pa.Table, config: SimulationConfig
) -> None:
    delay = (milliseconds(history, "reported_at") - milliseconds(history, "event_time")) / DAY_MS
    fraud = history["is_fraud"].to_numpy() == 1
    assert delay.min() > 0
    assert np.all(delay[~fraud] == config.delays.maturity)
    assert delay[fraud].max() <= config.delays.maturity
    pattern = np.array(history["fraud_pattern"].to_pylist(), dtype=object)
    spree = np.median(delay[pattern == "stolen_card_spree"])
    collusive = np.median(delay[pattern == "collusive_merchant"])
    assert spree < 3 < collusive < 10


def test_label_delays_follow_the_configuration() -> None:
    slow = LabelDelays(customer_median=20, chargeback_median=20, customer_sigma=0.1, chargeback_sigma=0.1)
    config = SimulationConfig(customers=200, merchants=40, days=30, fraud_rate=0.05, delays=slow)
    history = pa.concat_tables(simulate(config))
    delay = (milliseconds(history, "reported_at") - milliseconds(history, "event_time")) / DAY_MS
    assert np.median(delay[history["is_fraud"].to_numpy() == 1]) == pytest.approx(20, rel=0.05)


def test_memory_does_not_grow_with_the_period() -> None:
    def python_peak(days: int) -> int:
        config = SimulationConfig(customers=400, merchants=40, days=200)
        stream: Iterator[pa.Table] = simulate(config)
        tracemalloc.start()
        for _ in islice(stream, days):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert python_peak(16) < 1.5 * python_peak(4)
