from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fraudml.errors import FeatureError
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
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

SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "merchant": "merch"},
    AmountColumn("amount"),
    {
        "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
        "shop": Attribute(AttributeType.category),
        "score": Attribute(AttributeType.number),
        "born": Attribute(AttributeType.time),
    },
)
COUNT = WindowFeature(name="n", over="customer", agg=Aggregation.count, length="1d")


def window(**changes: Any) -> WindowFeature:
    return msgspec.structs.replace(COUNT, **changes)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (window(name="1n"), "does not start with a digit"),
        (window(name="n-1"), "only letters, digits"),
        (window(monotone=2), "monotone"),
        (window(over="device"), "no entity 'device'.*customer, merchant"),
        (window(length="0s"), "must be positive"),
        (window(length="soon"), "not a duration"),
        (window(length="90min", resolution="1h"), "multiple of the resolution"),
        (window(length="1h", resolution="2h"), "multiple of the resolution"),
        (window(resolution="0s"), "multiple of the resolution"),
        (window(agg=Aggregation.sum), "sum needs 'of'"),
        (window(of="colour"), "no 'colour'"),
        (window(agg=Aggregation.mean, of="shop"), "mean needs a number"),
        (window(agg=Aggregation.max, of="merchant"), "max needs a number"),
        (window(of="born"), "does not aggregate times"),
        (window(of="event_time"), "does not aggregate times"),
        (LastFeature(name="x", over="customer", of="shop"), "needs a vocabulary"),
        (LastFeature(name="x", over="customer", of="merchant"), "needs a vocabulary"),
        (LastFeature(name="x", over="customer", within="0d"), "must be positive"),
        (
            LabelWindowFeature(name="x", over="shop", agg=LabelAggregation.fraud_rate, length="7d"),
            "no entity 'shop'",
        ),
        (AttributeFeature(name="x", of="merchant"), "is an entity"),
        (AttributeFeature(name="x", of="shop"), "needs a vocabulary"),
        (AttributeFeature(name="x", of="country", transform=Transform.log1p), "a category allows: raw"),
        (AttributeFeature(name="x", of="amount", transform=Transform.hour_of_day), "allows: log1p, raw"),
        (AttributeFeature(name="x", of="event_time", transform=Transform.days_since), "a time allows"),
        (AttributeFeature(name="x", of="born"), "a time allows"),
        (DerivedFeature(name="x", expression="n + later"), "no earlier feature"),
    ],
)
def test_wrong_declarations_name_the_feature_and_the_reason(feature: Feature, message: str) -> None:
    with pytest.raises(FeatureError, match=message) as caught:
        FeatureSet(SCHEMA, [feature])
    assert str(caught.value).startswith(f"feature {feature.name!r}: ")


def test_names_are_unique_and_something_is_an_input() -> None:
    with pytest.raises(FeatureError, match="declared twice"):
        FeatureSet(SCHEMA, [COUNT, COUNT])
    with pytest.raises(FeatureError, match="no input feature"):
        FeatureSet(SCHEMA, [window(input=False)])


def test_a_derived_feature_sees_only_earlier_ones() -> None:
    twice = DerivedFeature(name="twice", expression="2 * n")
    assert FeatureSet(SCHEMA, [COUNT, twice]).input_names == ("n", "twice")
    with pytest.raises(FeatureError, match="'n', which is no earlier feature"):
        FeatureSet(SCHEMA, [twice, COUNT])


def test_inputs_and_state_features_keep_their_order() -> None:
    amount = AttributeFeature(name="amount", of="amount")
    hidden = window(name="hidden", input=False)
    last = LastFeature(name="gap", over="merchant")
    feature_set = FeatureSet(SCHEMA, [hidden, amount, COUNT, last])
    assert feature_set.input_names == ("amount", "n", "gap")
    assert [feature.name for feature in feature_set.state_features] == ["hidden", "n", "gap"]


def test_last_columns_are_in_schema_order_without_the_time() -> None:
    feature_set = FeatureSet(
        SCHEMA,
        [
            LastFeature(name="a", over="customer", of="score"),
            LastFeature(name="b", over="customer", of="country"),
            LastFeature(name="c", over="customer", of="amount"),
            LastFeature(name="d", over="customer"),
            LastFeature(name="e", over="merchant", of="born"),
        ],
    )
    assert feature_set.last_columns("customer") == ("amount", "country", "score")
    assert feature_set.last_columns("merchant") == ("born",)


def test_the_horizon_is_the_longest_look_back_and_its_tail() -> None:
    hour_us = 3_600_000_000
    coarse = window(name="coarse", length="24h", resolution="12h")
    feature_set = FeatureSet(SCHEMA, [COUNT, coarse, LastFeature(name="gap", over="merchant", within="1h")])
    assert feature_set.horizon_us("customer") == 36 * hour_us
    assert feature_set.horizon_us("merchant") == hour_us


FINGERPRINT = FeatureSet(SCHEMA, [COUNT]).fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        FeatureSet(SCHEMA, [window(length="2d")]),
        FeatureSet(SCHEMA, [window(name="m")]),
        FeatureSet(SCHEMA, [window(resolution="1h")]),
        FeatureSet(SCHEMA, [COUNT, window(name="m")]),
        FeatureSet(msgspec.structs.replace(SCHEMA, amount=AmountColumn("amount", decimals=0)), [COUNT]),
        FeatureSet(msgspec.structs.replace(SCHEMA, entities={"merchant": "m", "customer": "c"}), [COUNT]),
        FeatureSet(
            msgspec.structs.replace(
                SCHEMA, attributes={"country": Attribute(AttributeType.category, vocabulary=("FR", "DE"))}
            ),
            [COUNT],
        ),
    ],
)
def test_the_fingerprint_changes_with_any_value(changed: FeatureSet) -> None:
    assert changed.fingerprint != FINGERPRINT


def test_the_fingerprint_ignores_wording_and_column_names() -> None:
    renamed = msgspec.structs.replace(
        SCHEMA,
        event_time=TimeColumn("when"),
        entities={"customer": "CUST_NO", "merchant": "M"},
        amount=AmountColumn("AMT", currency="EUR"),
    )
    feature_set = FeatureSet(renamed, [window(text="purchases in a day")])
    assert feature_set.fingerprint == FINGERPRINT


def test_declarations_survive_a_round_trip() -> None:
    features: list[Feature] = [
        COUNT,
        AttributeFeature(name="hour", of="event_time", transform=Transform.hour_of_day),
        LabelWindowFeature(name="frauds", over="merchant", agg=LabelAggregation.fraud_count, length="30d"),
        LastFeature(name="gap", over="customer"),
        DerivedFeature(name="ratio", expression="frauds / n"),
    ]
    assert msgspec.json.decode(msgspec.json.encode(features), type=list[Feature]) == features
    with pytest.raises(msgspec.ValidationError, match="lenght"):
        msgspec.convert({"kind": "last", "name": "x", "over": "customer", "lenght": "1d"}, Feature)
