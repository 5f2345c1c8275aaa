"""Features in plain words, for reasons that an analyst reads."""

from __future__ import annotations

import math

from fraudml.events.schema import AMOUNT_INPUT, NO_CURRENCY, TIME_INPUT, AttributeType
from fraudml.events.units import parse_duration
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

_UNIT_WORDS = {"d": "day", "h": "hour", "min": "minute", "s": "second", "w": "week"}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_AGGREGATION_WORDS = {
    Aggregation.sum: "total",
    Aggregation.mean: "average",
    Aggregation.std: "spread of the",
    Aggregation.min: "smallest",
    Aggregation.max: "largest",
}
_LABEL_WORDS = {
    LabelAggregation.label_count: "reports about",
    LabelAggregation.fraud_count: "frauds reported for",
    LabelAggregation.fraud_rate: "share of fraud among the reports about",
}


def duration_words(text: str) -> str:
    """A duration as people say it.

    >>> duration_words("7d"), duration_words("1h"), duration_words("250ms")
    ('7 days', 'hour', '250ms')
    """
    digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    word = _UNIT_WORDS.get(text.strip()[len(digits) :].strip())
    if word is None:
        return text
    return word if digits == "1" else f"{digits} {word}s"


def seconds_words(seconds: float) -> str:
    """A number of seconds in the unit that reads best.

    >>> seconds_words(45), seconds_words(5400), seconds_words(200_000)
    ('45 s', '1.5 hours', '2.31 days')
    """
    for size, word in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {word}"
    return f"{seconds:.3g} s"


class Describer:
    """Plain words for the features of one set."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self._schema = feature_set.schema

    def name(self, feature: Feature) -> str:
        """What the feature is, without its value."""
        if feature.text:
            return feature.text
        match feature:
            case AttributeFeature():
                return self._attribute(feature)
            case WindowFeature():
                return self._window(feature)
            case LabelWindowFeature():
                span = duration_words(feature.length)
                return f"{_LABEL_WORDS[feature.agg]} this {feature.over} in the last {span}"
            case LastFeature(of=of, over=over):
                if of == TIME_INPUT:
                    return f"time since this {over}'s previous transaction"
                return f"{of} of this {over}'s previous transaction"
            case DerivedFeature():
                return feature.name.replace("_", " ")

    def value(self, feature: Feature, value: float | None) -> str:
        """The value in its own unit: money, a category's name, a time, a number."""
        if value is None:
            return "none"
        of = getattr(feature, "of", None)
        if isinstance(feature, LastFeature) and of == TIME_INPUT:
            return seconds_words(value)
        if isinstance(feature, AttributeFeature) and feature.transform is not Transform.raw:
            return self._transformed(feature, value)
        agg = getattr(feature, "agg", None)
        if agg is LabelAggregation.fraud_rate:
            return f"{value:.1%}"
        if of == AMOUNT_INPUT and agg not in (Aggregation.count, Aggregation.nunique):
            return self._money(value)
        if of in self._schema.attributes and agg is None:
            attribute = self._schema.attributes[of]
            if attribute.type is AttributeType.category:
                return attribute.vocabulary[int(value) - 1] if value >= 1 else "a value not seen in training"
            if attribute.type is AttributeType.boolean:
                return "yes" if value else "no"
        return f"{value:,.4g}"

    def reason(self, feature: Feature, value: float | None, typical: float | None, *, raises: bool) -> str:
        """One sentence: what it is, what is typical, which way it pushes."""
        direction = "raises" if raises else "lowers"
        usual = self.value(feature, typical)
        shown = self.value(feature, value)
        comparison = "" if shown == usual else f" (typically {usual})"
        return f"{self.name(feature)}: {shown}{comparison}, {direction} the risk"

    def _attribute(self, feature: AttributeFeature) -> str:
        match feature.transform:
            case Transform.hour_of_day:
                return "hour of the day (UTC)"
            case Transform.day_of_week:
                return "day of the week"
            case Transform.is_night:
                return "at night (UTC)"
            case Transform.is_weekend:
                return "on a weekend"
            case Transform.days_since:
                return f"time since {feature.of}"
            case _:
                return feature.of

    def _window(self, feature: WindowFeature) -> str:
        span = f"in the last {duration_words(feature.length)}"
        if feature.of is None:
            return f"transactions of this {feature.over} {span}"
        if feature.agg is Aggregation.count:
            return f"transactions of this {feature.over} with a {feature.of} {span}"
        if feature.agg is Aggregation.nunique:
            return f"different values of {feature.of} for this {feature.over} {span}"
        return f"{_AGGREGATION_WORDS[feature.agg]} {feature.of} of this {feature.over} {span}"

    def _transformed(self, feature: AttributeFeature, value: float) -> str:
        match feature.transform:
            case Transform.day_of_week:
                return _DAYS[int(value) % 7]
            case Transform.is_night | Transform.is_weekend:
                return "yes" if value else "no"
            case Transform.days_since:
                return seconds_words(value * parse_duration("1d") / 1_000_000)
            case Transform.log1p if feature.of == AMOUNT_INPUT:
                return self._money(_expm1(value))
            case Transform.log1p:
                return f"{_expm1(value):,.4g}"
            case _:
                return f"{value:g}"

    def _money(self, minor: float) -> str:
        amount = self._schema.amount
        if amount is None:
            return f"{minor:,.4g}"
        currency = "" if amount.currency == NO_CURRENCY else f" {amount.currency}"
        return f"{minor / 10**amount.decimals:,.2f}{currency}"


def _expm1(value: float) -> float:
    return math.copysign(math.expm1(abs(value)), value)
