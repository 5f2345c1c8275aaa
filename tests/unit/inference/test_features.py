"""The default features of a schema."""

from __future__ import annotations

import pytest

from fraudml.events.profile import ColumnProfile, TableProfile
from fraudml.events.schema import AmountColumn, LabelColumn, Schema, TimeColumn
from fraudml.features.spec import DerivedFeature, FeatureSet
from fraudml.features.words import Describer
from fraudml.inference.features import default_features


def column(name: str, **facts: object) -> ColumnProfile:
    known = {"sql_type": "VARCHAR", "rows": 1_000, "filled": 1.0, "distinct": 50, "all_distinct": 50}
    return ColumnProfile(name=name, **{**known, **facts})  # type: ignore[arg-type]


@pytest.fixture
def features() -> FeatureSet:
    schema = Schema(
        event_time=TimeColumn("time", timezone="UTC"),
        entities={"customer": "cust", "terminal": "term"},
        amount=AmountColumn("amount"),
        label=LabelColumn("fraud"),
    ).check()
    time = column("time", earliest="2024-01-01 00:00:00", latest="2024-06-01 00:00:00")
    facts = TableProfile(("file.csv",), 1_000, 1_000, (time, column("cust"), column("term")))
    return FeatureSet(schema, default_features(schema, facts))


def test_those_of_an_entity(features: FeatureSet) -> None:
    of_customer = {name for name in features.input_names if name.startswith("customer_")}
    assert of_customer == {
        *(f"customer_count_{length}" for length in ("1h", "1d", "7d", "30d")),
        *(
            f"customer_amount_{what}_{length}"
            for what in ("mean", "std", "ratio", "z", "of_max")
            for length in ("7d", "30d")
        ),
        *(f"customer_{what}_{length}" for what in ("fraud_count", "fraud_rate") for length in ("1d", "7d", "30d")),
    }
    assert set(features.input_names) >= {"amount", "hour_of_day", "day_of_week"}
    assert len(features.input_names) == 3 + 2 * len(of_customer)


def test_derived_features_have_plain_words(features: FeatureSet) -> None:
    words = Describer(features)
    derived = {feature.name: words.name(feature) for feature in features.inputs if isinstance(feature, DerivedFeature)}
    assert derived["terminal_amount_ratio_7d"] == (
        "amount as a multiple of the average of this terminal in the last 7 days"
    )
    assert not [name for name, said in derived.items() if said == name.replace("_", " ")]
