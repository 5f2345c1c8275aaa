"""Names that every database takes: those of the user where they are plain, else made ones."""

from __future__ import annotations

import re
from hashlib import sha256

from msgspec.structs import replace

from fraudml.events.schema import Schema
from fraudml.features.spec import FeatureSet, LabelWindowFeature, StateFeature

# PostgreSQL cuts names at 63 bytes, and the generator adds to them; BigQuery keeps some that begin with _ for itself
# and allows few characters.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_TAKEN = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}  # columns that each table of PostgreSQL has


def plain_name(name: str) -> str:
    """The name itself, or one made from it.

    >>> plain_name("customer"), plain_name('odd "name"')
    ('customer', 'c_ccf64fbf0fc9')
    """
    if _PLAIN.fullmatch(name) and name.lower() not in _TAKEN:
        return name
    return f"c_{sha256(name.encode()).hexdigest()[:12]}"


def plain_features(feature_set: FeatureSet) -> FeatureSet | None:
    """The state features, in their order, over columns with plain names; ``None`` when there are none."""
    wanted = [_plain(feature) for feature in feature_set.state_features]
    return FeatureSet(_plain_schema(feature_set.schema), wanted) if wanted else None


def _plain_schema(schema: Schema) -> Schema:
    return replace(
        schema,
        entities={plain_name(name): column for name, column in schema.entities.items()},
        attributes={plain_name(name): attribute for name, attribute in schema.attributes.items()},
    )


def _plain(feature: StateFeature) -> StateFeature:
    names = {"name": plain_name(feature.name), "over": plain_name(feature.over)}
    if not isinstance(feature, LabelWindowFeature) and feature.of is not None:
        names["of"] = plain_name(feature.of)
    return replace(feature, input=True, **names)
