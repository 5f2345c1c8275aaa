"""What an online store has to answer, by the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.reference import as_float, state_value
from fraudml.features.spec import FeatureSet, LabelWindowFeature, StateFeature
from fraudml.features.stores import StateRead
from tests.parity.strategies import History

DAY_US = 86_400_000_000

# (value, reference's, FeatureSet, feature, target, transactions before) -> whether they are the same.
Same = Callable[[float, float, FeatureSet, StateFeature, Transaction, Sequence[Transaction]], bool]


def expected(
    feature_set: FeatureSet,
    feature: StateFeature,
    target: Transaction,
    transactions: Sequence[Transaction],
    labels: Sequence[Label],
) -> float:
    return as_float(state_value(feature_set, feature, target, transactions, labels))


def is_late(feature_set: FeatureSet, target: Transaction, before: Sequence[Transaction]) -> bool:
    used = {feature_set.schema.entity_names.index(f.over) for f in feature_set.state_features}
    return any(
        event.entities[i] is not None
        and event.entities[i] == target.entities[i]
        and event.event_time_us > target.event_time_us
        for event in before
        for i in used
    )


def tile_is_ahead(
    feature_set: FeatureSet, feature: StateFeature, target: Transaction, before: Sequence[Transaction]
) -> bool:
    """The documented exception: a late read of a coarse window of transactions."""
    if isinstance(feature, LabelWindowFeature) or getattr(feature, "resolution_us", 1) == 1:
        return False
    at = feature_set.schema.entity_names.index(feature.over)
    return any(e.entities[at] == target.entities[at] and e.event_time_us > target.event_time_us for e in before)


def identical(value: float, wanted: float, *_: object) -> bool:
    return value == wanted or (math.isnan(value) and math.isnan(wanted))


def check(
    history: History,
    answer: StateRead,
    targets: Sequence[Transaction],
    arrived: Sequence[Sequence[Transaction]],
    same: Same = identical,
) -> None:
    feature_set = history.feature_set
    for i, (target, before) in enumerate(zip(targets, arrived, strict=True)):
        assert bool(answer.late[i]) == is_late(feature_set, target, before)
        for value, feature in zip(answer.values[i], feature_set.state_features, strict=True):
            if tile_is_ahead(feature_set, feature, target, before):
                continue
            wanted = expected(feature_set, feature, target, before, history.labels)
            assert same(value, wanted, feature_set, feature, target, before), (feature, target, value, wanted)
