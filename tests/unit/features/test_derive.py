"""The vectorised path equals the reference, from transactions and from Arrow batches alike."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.events.schema import AmountColumn, AttributeType, Schema, TimeColumn
from fraudml.events.transaction import Transaction
from fraudml.features.derive import FLOAT32_MAX, Deriver, to_model
from fraudml.features.reference import as_float, evaluate, read
from fraudml.features.spec import (
    AttributeFeature,
    DerivedFeature,
    Feature,
    FeatureSet,
    LastFeature,
    Transform,
)
from tests.parity.strategies import (
    ATTRIBUTES,
    ENTITIES,
    History,
    histories,
    record_batch,
    state_features,
    transaction_lists,
)

SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    ENTITIES,
    AmountColumn("amount", allow_negative=True, optional=True),
    ATTRIBUTES,
)
ALLOWED: dict[AttributeType, list[Transform]] = {
    AttributeType.number: [Transform.raw, Transform.log1p],
    AttributeType.integer: [Transform.raw, Transform.log1p],
    AttributeType.boolean: [Transform.raw, Transform.log1p],
    AttributeType.category: [Transform.raw],
    AttributeType.time: [
        Transform.hour_of_day,
        Transform.day_of_week,
        Transform.is_night,
        Transform.is_weekend,
        Transform.days_since,
    ],
}
READABLE = ["amount", "event_time", *(name for name in ATTRIBUTES if name != "shop")]
FORMULAS = ["({0} - {1}) / {2}", "where({0} > {1}, {2}, 0 - {0})", "coalesce({0} / {1}, {2})", "log1p(abs({0}))"]


@st.composite
def attribute_features(draw: st.DrawFn, name: str) -> AttributeFeature:
    of = draw(st.sampled_from(READABLE))
    allowed = [
        transform
        for transform in ALLOWED[SCHEMA.input_type(of)]
        if not (of == "event_time" and transform is Transform.days_since)
    ]
    return AttributeFeature(name=name, of=of, transform=draw(st.sampled_from(allowed)))


@st.composite
def cases(draw: st.DrawFn) -> History:
    """State, attribute and derived features mixed, some of them not inputs."""
    features: list[Feature] = []
    for i in range(draw(st.integers(1, 8))):
        name = f"f{i}"
        kind = draw(st.sampled_from(["state", "attribute", "attribute", "derived"]))
        if kind == "derived" and features:
            names = [draw(st.sampled_from(features)).name for _ in range(3)]
            features.append(DerivedFeature(name=name, expression=draw(st.sampled_from(FORMULAS)).format(*names)))
        elif kind == "state":
            features.append(draw(state_features(SCHEMA, name)))
        else:
            features.append(draw(attribute_features(name)))
    feature_set = FeatureSet(SCHEMA, features)
    return History(feature_set, draw(transaction_lists(SCHEMA, max_size=6)), ())


def expected_vectors(history: History) -> np.ndarray:
    rows = [evaluate(history.feature_set, event, history.transactions, ()) for event in history.transactions]
    return np.array([[as_float(row[name]) for name in history.feature_set.input_names] for row in rows])


def state_matrix(history: History) -> np.ndarray:
    rows = [evaluate(history.feature_set, event, history.transactions, ()) for event in history.transactions]
    names = [feature.name for feature in history.feature_set.state_features]
    return np.array([[as_float(row[name]) for name in names] for row in rows]).reshape(len(rows), len(names))


def state_batch(history: History) -> pa.RecordBatch:
    """What an offline store would hand over: text for a category read by ``last``."""
    feature_set = history.feature_set
    batch = record_batch(feature_set.schema, history.transactions, {})
    matrix = state_matrix(history)
    for i, feature in enumerate(feature_set.state_features):
        column = pa.array(matrix[:, i], from_pandas=True)
        if isinstance(feature, LastFeature) and feature.of == "country":
            words = {float(code): word for code, word in enumerate(ATTRIBUTES["country"].vocabulary, 1)}
            column = pa.array(
                [None if np.isnan(code) else words.get(code, "elsewhere") for code in matrix[:, i]],
                pa.string(),
            )
        batch = batch.append_column(feature.name, column)
    return batch


@settings(max_examples=30)
@given(cases())
def test_derive_equals_the_reference(history: History) -> None:
    deriver, wanted = Deriver(history.feature_set), expected_vectors(history)
    # an expression of a value that is one rounding off may amplify it, so derived inputs see the same state here
    found = deriver.from_transactions(history.transactions, state_matrix(history))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_array_equal(found, deriver.from_arrow(state_batch(history)))


@settings(max_examples=20)
@given(histories(max_features=4, max_transactions=4))
def test_one_row_is_the_same_as_many(history: History) -> None:
    deriver, state = Deriver(history.feature_set), state_matrix(history)
    whole = deriver.from_transactions(history.transactions, state)
    single = [deriver.from_transactions([event], state[i : i + 1]) for i, event in enumerate(history.transactions)]
    np.testing.assert_array_equal(whole, np.concatenate(single))


def test_no_rows() -> None:
    feature_set = FeatureSet(SCHEMA, [AttributeFeature(name="country", of="country")])
    assert Deriver(feature_set).from_transactions([], np.empty((0, 0))).shape == (0, 1)
    assert Deriver(feature_set).from_arrow(record_batch(SCHEMA, [], {})).shape == (0, 1)


@pytest.mark.parametrize(("country", "code"), [("DE", 1.0), ("FR", 2.0), ("é", 3.0), ("de", 0.0), (None, np.nan)])
def test_categories_become_codes(country: str | None, code: float) -> None:
    deriver = Deriver(FeatureSet(SCHEMA, [AttributeFeature(name="x", of="country")]))
    attributes = tuple(country if name == "country" else None for name in ATTRIBUTES)
    event = Transaction("t", 0, (None, None), None, attributes)
    assert read(SCHEMA, event, "country") == country
    np.testing.assert_array_equal(deriver.from_transactions([event], np.empty((1, 0))), [[code]])
    np.testing.assert_array_equal(deriver.from_arrow(record_batch(SCHEMA, [event], {})), [[code]])


def test_the_model_sees_float32_within_its_range() -> None:
    vectors = np.array([[1e300, -1e300, np.nan, 0.1]])
    model = to_model(vectors)
    assert model.dtype == np.float32
    assert model[0, :2].tolist() == [FLOAT32_MAX, -FLOAT32_MAX]
    assert np.isnan(model[0, 2])
    assert model[0, 3] == np.float32(0.1)
