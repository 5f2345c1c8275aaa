"""The oracle itself, held to examples computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.transaction import Transaction
from fraudml.features.reference import Number, aggregate, evaluate
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    DerivedFeature,
    Feature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    Transform,
    WindowFeature,
)

HOUR = 3_600_000_000
DAY = 24 * HOUR
T = 19_700 * DAY + 13 * HOUR + 30  # 2023-12-09 13:00:00.00003, a Saturday

SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "merchant": "merch"},
    AmountColumn("amount"),
    {
        "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
        "score": Attribute(AttributeType.number),
        "born": Attribute(AttributeType.time),
    },
)


def event(
    time_us: int,
    amount: int | None = 100,
    customer: str | None = "c",
    merchant: str | None = "m",
    attributes: tuple[Any, ...] = ("DE", 0.5, None),
) -> Transaction:
    return Transaction(f"at {time_us}", time_us, (customer, merchant), amount, attributes)


def value(feature: Feature, past: list[Transaction], labels: list[Label] | None = None, **target: Any) -> Number:
    now = event(T, **target)
    return evaluate(FeatureSet(SCHEMA, [feature]), now, [now, *past], labels or [])[feature.name]


def window(agg: Aggregation, of: str | None = "amount", **more: Any) -> WindowFeature:
    return WindowFeature(name="x", over="customer", agg=agg, of=of, **{"length": "1h", **more})


@pytest.mark.parametrize(
    ("time_us", "seen"),
    [(T - HOUR - 1, 0), (T - HOUR, 1), (T - HOUR + 1, 1), (T - 1, 1), (T, 0), (T + 1, 0)],
)
def test_a_window_is_half_open(time_us: int, seen: int) -> None:
    assert value(window(Aggregation.count, None), [event(time_us)]) == seen


@pytest.mark.parametrize(
    ("resolution", "start"),
    [("1us", T - HOUR), ("1min", T - HOUR - 30), ("1h", T - HOUR - 30)],
)
def test_resolution_steps_the_tail_only(resolution: str, start: int) -> None:
    feature = window(Aggregation.count, None, resolution=resolution)
    assert value(feature, [event(start - 1)]) == 0
    assert value(feature, [event(start)]) == 1
    assert value(feature, [event(T - 1)]) == 1
    assert value(feature, [event(T)]) == 0


PAST = [event(T - 1, 200), event(T - 2, 500), event(T - 3, 800), event(T - 4, None), event(T - 5, 200)]


@pytest.mark.parametrize(
    ("agg", "of", "expected"),
    [
        (Aggregation.count, None, 5),
        (Aggregation.count, "amount", 4),
        (Aggregation.sum, "amount", 1700),
        (Aggregation.mean, "amount", 425.0),
        # deviations -225, 75, 375, -225: squares sum to 247500; / 3 = 82500
        (Aggregation.std, "amount", 82_500**0.5),
        (Aggregation.min, "amount", 200),
        (Aggregation.max, "amount", 800),
        (Aggregation.nunique, "amount", 3),
        (Aggregation.nunique, "merchant", 1),
    ],
)
def test_aggregations(agg: Aggregation, of: str | None, expected: float) -> None:
    assert value(window(agg, of), PAST) == expected


def test_sums_of_integers_are_integers_however_large() -> None:
    huge = [event(T - i, 10**12 - i) for i in range(1, 4)]
    total = value(window(Aggregation.sum), huge)
    assert total == 3 * 10**12 - 6
    assert isinstance(total, int)
    assert value(window(Aggregation.std), huge) == 1.0


def test_floating_point_is_exact_inside() -> None:
    assert aggregate(Aggregation.sum, [1e16, 1.0, -1e16]) == 1.0
    assert aggregate(Aggregation.mean, [0.1] * 10) == 0.1


@pytest.mark.parametrize("past", [[], [event(T - 1, customer="other")], [event(T - 1, None)]])
def test_empty_windows(past: list[Transaction]) -> None:
    assert value(window(Aggregation.count), past) == 0
    assert value(window(Aggregation.sum), past) == 0
    for agg in (Aggregation.mean, Aggregation.std, Aggregation.min, Aggregation.max, Aggregation.nunique):
        assert value(window(agg), past) is None


def test_one_value_has_no_standard_deviation() -> None:
    assert value(window(Aggregation.std), [event(T - 1)]) is None


def test_a_missing_key_sees_nothing_not_even_other_missing_keys() -> None:
    assert value(window(Aggregation.count), [event(T - 1, customer=None)], customer=None) == 0


def label(verdict: bool, known_at_us: int, customer: str | None = "c") -> Label:
    return Label("some", verdict, known_at_us, (customer, "m"))


def test_label_windows_slide_over_the_report_time() -> None:
    labels = [
        label(True, T),  # not yet known
        label(True, T - 1),
        label(False, T - 2),
        label(False, T - HOUR),
        label(True, T - HOUR - 1),  # too long ago
        label(True, T - 3, "other"),
        label(True, T - 3, None),
    ]
    expected = {"label_count": 3, "fraud_count": 1, "fraud_rate": 1 / 3}
    for agg in LabelAggregation:
        feature = LabelWindowFeature(name="x", over="customer", agg=agg, length="1h")
        assert value(feature, [], labels) == expected[agg.value]
        assert value(feature, [], []) == (None if agg is LabelAggregation.fraud_rate else 0)
        assert value(feature, [], labels, customer=None) in (None, 0)


def last(of: str = "event_time", within: str = "1h") -> LastFeature:
    return LastFeature(name="x", over="customer", of=of, within=within)


def test_last_reads_the_latest_earlier_event() -> None:
    past = [event(T - 2, 7), event(T - 3_000_000, 8), event(T, 9)]
    assert value(last(), past) == 2e-6
    assert value(last("amount"), past) == 7
    assert value(last(), past[1:]) == 3.0
    assert value(last(), [event(T - HOUR)]) == 3600.0
    assert value(last(), [event(T - HOUR - 1)]) is None
    assert value(last("country"), [event(T - 1, attributes=("FR", None, None))]) == 2
    assert value(last("country"), [event(T - 1, attributes=("XX", None, None))]) == 0
    assert value(last("country"), [event(T - 1, attributes=(None, None, None))]) is None


def test_among_ties_last_reads_the_greatest_values_of_all_columns_it_tracks() -> None:
    amount = LastFeature(name="amount_before", over="customer", of="amount")
    score = LastFeature(name="score_before", over="customer", of="score")
    past = [
        event(T - 1, None, attributes=("DE", 9.0, None)),
        event(T - 1, 5, attributes=("DE", None, None)),
        event(T - 1, 5, attributes=("DE", 0.25, None)),
        event(T - 1, 4, attributes=("DE", 3.0, None)),
    ]
    for order in (past, past[::-1]):
        found = evaluate(FeatureSet(SCHEMA, [score, amount]), event(T), order, [])
        assert found == {"score_before": 0.25, "amount_before": 5}


@pytest.mark.parametrize(
    ("of", "transform", "expected"),
    [
        ("amount", Transform.raw, -100),
        ("amount", Transform.log1p, -4.61512051684126),
        ("country", Transform.raw, 2),
        ("event_time", Transform.hour_of_day, 13),
        ("event_time", Transform.day_of_week, 5),
        ("event_time", Transform.is_night, 0),
        ("event_time", Transform.is_weekend, 1),
        ("born", Transform.days_since, 1.5),
        ("born", Transform.hour_of_day, 1),
        ("born", Transform.is_night, 1),
        ("born", Transform.is_weekend, 0),
    ],
)
def test_attributes(of: str, transform: Transform, expected: float) -> None:
    feature = AttributeFeature(name="x", of=of, transform=transform)
    assert value(feature, [], amount=-100, attributes=("FR", 0.5, T - 36 * HOUR)) == expected


def test_a_missing_attribute_is_missing_and_an_unknown_category_is_code_0() -> None:
    country = AttributeFeature(name="x", of="country")
    assert value(country, [], attributes=(None, None, None)) is None
    assert value(country, [], attributes=("XX", None, None)) == 0


def test_derived_features_read_earlier_ones() -> None:
    features: list[Feature] = [
        window(Aggregation.mean),
        AttributeFeature(name="amount", of="amount"),
        DerivedFeature(name="ratio", expression="amount / x"),
    ]
    feature_set = FeatureSet(SCHEMA, features)
    now = event(T, 850)
    assert evaluate(feature_set, now, PAST, [])["ratio"] == 2.0
    assert evaluate(feature_set, now, [], [])["ratio"] is None
