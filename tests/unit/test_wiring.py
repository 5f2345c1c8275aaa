"""Which adapters the settings choose."""

from __future__ import annotations

import msgspec
import pytest

from fraudml import wiring
from fraudml.events.schema import Attribute, AttributeType
from fraudml.features.spec import AttributeFeature, DerivedFeature, FeatureSet
from fraudml.settings import Settings
from tests.support.scoring import SCHEMA

CODE = AttributeFeature("code", of="country")
UNSEEN = AttributeFeature("code", of="country", input=False)


@pytest.mark.parametrize(
    ("mode", "values", "features", "is_on"),
    [
        ("auto", wiring.MOST_CODES, [CODE], True),
        ("auto", wiring.MOST_CODES + 1, [CODE], False),
        ("auto", wiring.MOST_CODES + 1, [AttributeFeature("amount", of="amount"), UNSEEN], True),
        ("auto", wiring.MOST_CODES + 1, [UNSEEN, DerivedFeature("half", expression="code / 2")], False),
        ("on", wiring.MOST_CODES + 1, [CODE], True),
    ],
)
def test_the_cache_is_off_by_default_where_codes_would_merge(
    mode: str, values: int, features: list[AttributeFeature], is_on: bool
) -> None:
    country = Attribute(AttributeType.category, vocabulary=tuple(map(str, range(values))))
    schema = msgspec.structs.replace(SCHEMA, attributes=SCHEMA.attributes | {"country": country})
    found = wiring.prediction_cache(Settings(cache=mode), FeatureSet(schema, features))
    assert (found is not None) is is_on
