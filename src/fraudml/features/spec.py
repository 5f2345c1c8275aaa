"""What a feature is: the declarations, their checks and the fingerprint of a set of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property

import msgspec

from fraudml.errors import ConfigError, FeatureError
from fraudml.events.schema import AMOUNT_INPUT, RESERVED, TIME_INPUT, AttributeType, Schema
from fraudml.events.units import parse_duration
from fraudml.features.expression import Expression

LABEL_INPUT = "is_fraud"  # the one column of the label stream
DEFAULT_LAST_WITHIN = "90d"


class Transform(StrEnum):
    """What an attribute feature does to its column; ``raw`` is the value itself (a category's code)."""

    raw = "raw"
    log1p = "log1p"  # sign(x) * ln(1 + |x|)
    hour_of_day = "hour_of_day"  # 0-23, UTC
    day_of_week = "day_of_week"  # 0 = Monday, UTC
    is_night = "is_night"  # 1 from 00:00 to 05:59 UTC
    is_weekend = "is_weekend"  # 1 on Saturday and Sunday, UTC
    days_since = "days_since"  # event_time minus a time attribute, in days


class Aggregation(StrEnum):
    """What a window does with the non-missing values in it."""

    # of events, or of non-missing values when 'of' is given (str.count is hidden, and nobody misses it)
    count = "count"  # type: ignore[assignment]
    sum = "sum"
    mean = "mean"
    std = "std"  # sample standard deviation (n - 1); null below two values
    min = "min"
    max = "max"
    nunique = "nunique"


class LabelAggregation(StrEnum):
    """What a label window does with the reports known in it."""

    label_count = "label_count"
    fraud_count = "fraud_count"
    fraud_rate = "fraud_rate"  # null without a report


# What a label aggregation is over the column ``is_fraud``.
OF_LABELS = {
    LabelAggregation.label_count: Aggregation.count,
    LabelAggregation.fraud_count: Aggregation.sum,
    LabelAggregation.fraud_rate: Aggregation.mean,
}


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Feature(_Named, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """Common part. ``input: false`` makes an intermediate that derived features use but no model sees.
    ``monotone`` (+1, -1) tells families that can that more of it can only raise (lower) the score."""

    input: bool = True
    monotone: int = 0
    text: str = ""  # plain words for reasons; made up when empty


class AttributeFeature(_Feature, frozen=True, tag="attribute"):
    """A value of the transaction itself; ``of`` is an attribute, ``amount`` or ``event_time``."""

    of: str
    transform: Transform = Transform.raw


class WindowFeature(_Feature, frozen=True, tag="window"):
    """An aggregation over the entity's transactions with ``floor(t - length, resolution) <= time < t``."""

    over: str
    agg: Aggregation
    length: str
    of: str | None = None
    resolution: str = "1us"

    @property
    def length_us(self) -> int:
        """The window's length in microseconds."""
        return parse_duration(self.length)

    @property
    def resolution_us(self) -> int:
        """The step of the window's tail in microseconds."""
        return parse_duration(self.resolution)


class LabelWindowFeature(_Feature, frozen=True, tag="label_window"):
    """The same over the label stream, at the time each label became known."""

    over: str
    agg: LabelAggregation
    length: str
    resolution: str = "1us"

    @property
    def length_us(self) -> int:
        """The window's length in microseconds."""
        return parse_duration(self.length)

    @property
    def resolution_us(self) -> int:
        """The step of the window's tail in microseconds."""
        return parse_duration(self.resolution)


class LastFeature(_Feature, frozen=True, tag="last"):
    """From the entity's previous event (the latest with time < t, not older than ``within``).

    ``of: event_time`` is the seconds since it; ``of: amount`` or an attribute is its value. Among several
    events at that time the one whose values are the greatest counts (all columns that ``last`` features of the
    entity read, compared in schema order, a missing value below any other): so the answer never depends on the
    order of arrival.
    """

    over: str
    of: str = TIME_INPUT
    within: str = DEFAULT_LAST_WITHIN

    @property
    def length_us(self) -> int:
        """How far back the previous event may lie, in microseconds."""
        return parse_duration(self.within)


class DerivedFeature(_Feature, frozen=True, tag="derived"):
    """Arithmetic over features declared before it; see :mod:`fraudml.features.expression`."""

    expression: str


Feature = AttributeFeature | WindowFeature | LabelWindowFeature | LastFeature | DerivedFeature
StateFeature = WindowFeature | LabelWindowFeature | LastFeature


class FeatureSet:
    """A checked, ordered list of features over one schema. Immutable.

    >>> from fraudml.events.schema import TimeColumn, AmountColumn
    >>> schema = Schema(TimeColumn("time"), "id", {"customer": "cust"}, AmountColumn("amount"))
    >>> fs = FeatureSet(schema, [WindowFeature("n_1d", "customer", Aggregation.count, "1d")])
    >>> fs.input_names, len(fs.fingerprint)
    (('n_1d',), 64)
    """

    def __init__(self, schema: Schema, features: Iterable[Feature]) -> None:
        self.schema = schema
        self.features: tuple[Feature, ...] = tuple(features)
        self.expressions: dict[str, Expression] = {}
        names: set[str] = set()
        folded = {name.casefold() for name in (*RESERVED, *schema.entities, *schema.attributes)}
        for feature in self.features:
            try:
                self._check(feature, names)
                # a state feature is a column beside the schema's own, and SQL engines fold the case of names
                if isinstance(feature, StateFeature) and feature.name.casefold() in folded:
                    raise FeatureError("the name is that of a column of the schema; choose another")
            except ConfigError as error:
                raise FeatureError(f"feature {feature.name!r}: {error}") from None
            names.add(feature.name)
        if not self.inputs:
            raise FeatureError("the FeatureSet has no input feature")

    @cached_property
    def inputs(self) -> tuple[Feature, ...]:
        """The features that models see, in the order of the vector."""
        return tuple(feature for feature in self.features if feature.input)

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of :attr:`inputs`."""
        return tuple(feature.name for feature in self.inputs)

    @cached_property
    def state_features(self) -> tuple[StateFeature, ...]:
        """The features that need history: what offline and online stores compute, in this order."""
        return tuple(feature for feature in self.features if isinstance(feature, StateFeature))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides a feature's value: the declarations, the entities, the amount's decimals, and
        the attributes' types and vocabularies. Not how a time is written, nor the label's delay."""
        document = {
            "features": [
                {k: v for k, v in msgspec.to_builtins(feature).items() if k != "text"} for feature in self.features
            ],
            **self._values_of(self.schema),
        }
        return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()

    def places_in(self, kept: FeatureSet) -> list[int]:
        """Where the state features of this set are among those that a store keeps for another; FeatureError says what
        is missing there. Names may differ, what is computed may not.
        """
        if self._values_of(self.schema) != self._values_of(kept.schema):
            raise FeatureError(
                "its entities, attributes, vocabularies or decimals of the amount are others than the project declares"
            )
        places = {_meaning(feature): place for place, feature in enumerate(kept.state_features)}
        missing = [feature.name for feature in self.state_features if _meaning(feature) not in places]
        if missing:
            raise FeatureError(
                f"the online store does not keep {', '.join(missing)}: declare what is missing in fraudml.yaml "
                "(with input: false where no other model is to read it) and restart the service"
            )
        return [places[_meaning(feature)] for feature in self.state_features]

    @staticmethod
    def _values_of(schema: Schema) -> dict[str, object]:
        """What of a schema decides a feature's value."""
        return {
            "entities": schema.entity_names,
            "amount_decimals": schema.amount.decimals if schema.amount else None,
            "attributes": {name: [a.type, a.vocabulary] for name, a in schema.attributes.items()},
        }

    def last_columns(self, entity: str) -> tuple[str, ...]:
        """The inputs (amount, attributes; not the time) that ``last`` features of an entity read, in schema order."""
        used = {f.of for f in self.features if isinstance(f, LastFeature) and f.over == entity} - {TIME_INPUT}
        return tuple(name for name in (AMOUNT_INPUT, *self.schema.attribute_names) if name in used)

    def needed_by(self, names: Iterable[str]) -> set[str]:
        """The features named and all that they are derived from."""
        needed = set(names)
        for feature in reversed(self.features):
            if feature.name in needed and feature.name in self.expressions:
                needed |= self.expressions[feature.name].names
        return needed

    def coarse_names(self) -> set[str]:
        """The features that depend on a window coarser than a microsecond."""
        coarse = {f.name for f in self.features if getattr(f, "resolution_us", 1) > 1}
        return {f.name for f in self.features if coarse & self.needed_by([f.name])}

    def horizon_us(self, entity: str) -> int:
        """How far back any feature over this entity looks, in microseconds; 0 when none does."""
        spans = [f.length_us + getattr(f, "resolution_us", 0) for f in self.state_features if f.over == entity]
        return max(spans, default=0)

    def _check(self, feature: Feature, earlier: set[str]) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", feature.name):
            raise FeatureError("a name has only letters, digits and _, and does not start with a digit")
        if feature.name.casefold() in {name.casefold() for name in earlier}:
            raise FeatureError("the name is declared twice")
        if feature.monotone not in (-1, 0, 1):
            raise FeatureError("monotone is -1, 0 or 1")
        if isinstance(feature, DerivedFeature):
            self.expressions[feature.name] = Expression(feature.expression, earlier)
        elif isinstance(feature, AttributeFeature):
            self._check_attribute(feature)
        else:
            self._check_state(feature)

    def _check_attribute(self, feature: AttributeFeature) -> None:
        kind = self.schema.input_type(feature.of)
        if feature.of in self.schema.entities:
            raise FeatureError(f"{feature.of!r} is an entity; use a window over it, or declare an attribute")
        clock = {Transform.hour_of_day, Transform.day_of_week, Transform.is_night, Transform.is_weekend}
        allowed: set[Transform]
        if kind is AttributeType.category:
            allowed = {Transform.raw}
            if not self.schema.attributes[feature.of].vocabulary:
                raise FeatureError(f"the category {feature.of!r} needs a vocabulary in the schema")
        elif kind is AttributeType.time:
            allowed = clock if feature.of == TIME_INPUT else {*clock, Transform.days_since}
        else:
            allowed = {Transform.raw, Transform.log1p}
        if feature.transform not in allowed:
            raise FeatureError(f"a {kind} allows: {', '.join(sorted(allowed))}; not {feature.transform}")

    def _check_state(self, feature: StateFeature) -> None:
        if feature.over not in self.schema.entities:
            known = ", ".join(self.schema.entities) or "none"
            raise FeatureError(f"no entity {feature.over!r} in the schema (it has: {known})")
        if feature.length_us <= 0:
            raise FeatureError("the length must be positive")
        if isinstance(feature, LastFeature):
            self._check_last(feature)
            return
        if feature.resolution_us <= 0 or feature.length_us % feature.resolution_us:
            raise FeatureError("the length must be a multiple of the resolution")
        if isinstance(feature, WindowFeature):
            self._check_window(feature)

    def _check_last(self, feature: LastFeature) -> None:
        kind = self.schema.input_type(feature.of)
        if kind is AttributeType.category and (
            feature.of in self.schema.entities or not self.schema.attributes[feature.of].vocabulary
        ):
            raise FeatureError(f"the category {feature.of!r} needs a vocabulary in the schema")

    def _check_window(self, feature: WindowFeature) -> None:
        if feature.of is None:
            if feature.agg is not Aggregation.count:
                raise FeatureError(f"{feature.agg} needs 'of', the column that it aggregates")
            return
        kind = self.schema.input_type(feature.of)
        if kind is AttributeType.time:
            raise FeatureError("a window does not aggregate times")
        numeric = kind is not AttributeType.category
        if not numeric and feature.agg not in (Aggregation.count, Aggregation.nunique):
            raise FeatureError(f"{feature.agg} needs a number; {feature.of!r} is a category")


def _meaning(feature: StateFeature) -> StateFeature:
    """A state feature without what does not decide its value."""
    return msgspec.structs.replace(feature, name="", input=True, monotone=0, text="")
