"""The text of fraudml.yaml reads back as what was written, whatever columns and values are called."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml import project
from fraudml.events.profile import TableProfile
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, LabelColumn, Schema, TimeColumn, TimeFormat
from fraudml.features.spec import AttributeFeature, DerivedFeature, LastFeature, Transform
from fraudml.inference.guess import Guess
from fraudml.inference.text import write_yaml

nasty = st.one_of(
    st.sampled_from(
        ["yes", "No", "null", "1", "1e5", "2020-01-01", "a: b", "# x", "'", '"', "{", "[]", "a,b", "\n", "~"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
)


@settings(max_examples=60)
@given(
    columns=st.lists(nasty, min_size=6, max_size=6, unique_by=str.casefold),
    values=st.lists(nasty.map(str.lower), max_size=5, unique=True),
    sources=st.sampled_from([["data #1: *.csv"], ["yes", "C:\\days\\2.csv", "a, b.csv"]]),
)
def test_round_trip(columns: list[str], values: list[str], sources: list[str]) -> None:
    schema = Schema(
        event_time=TimeColumn(columns[0], TimeFormat.hours_from, start="2020-01-01"),
        transaction_id=columns[1],
        entities={"card": columns[2]},
        amount=AmountColumn(columns[3], decimals=0, allow_negative=True),
        attributes={"kind": Attribute(AttributeType.category, columns[4], tuple(values))},
        label=LabelColumn(columns[5], "3d", TimeColumn("reported", timezone="Europe/Berlin"), fraud=("1", *values)),
        ignore=tuple(values),
    )
    features = [
        AttributeFeature(name="amount", of="amount", transform=Transform.log1p, input=False, monotone=-1),
        LastFeature(name="wait", over="card", within="30min"),
        DerivedFeature(name="ratio", expression="amount / (wait + 1) * -2.5", text="how #much: more"),
    ]
    reasons = dict.fromkeys((*columns, *values), values[0] if values else "because")
    facts = TableProfile(tuple(sources), 10, 10, ())
    text = write_yaml(Guess(schema, reasons, tuple(values)), features, facts, "costs: {review_cost: 4}")
    assert yaml.safe_load(text)["source"] == (sources if len(sources) > 1 else sources[0])
    declared = project.parse(text)
    assert declared.source == sources
    assert declared.schema == schema
    assert list(declared.feature_set.features) == features
    assert declared.costs.review_cost == 4
