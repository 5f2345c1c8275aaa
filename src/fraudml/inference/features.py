"""The default features of a schema.

What they are was chosen on validation weeks of card data: per entity, how often in an hour, a day, a week and a
month; the week's and month's mean and spread of amounts, and the amount against them and against the largest; and
the frauds known by then. Sums, the day's amounts, the time since the previous transaction, the logarithm of the
amount and label counts beside these did not help or did harm.
"""

from __future__ import annotations

from fraudml.events.profile import TableProfile
from fraudml.events.schema import AMOUNT_INPUT, TIME_INPUT, AttributeType, Schema
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    DerivedFeature,
    Feature,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    Transform,
    WindowFeature,
)
from fraudml.features.words import duration_words
from fraudml.inference import times, words

HOT_ROWS = 100_000  # transactions per key from which on long windows have a coarser tail
LENGTHS = ("1d", "7d", "30d")
SHORT_LENGTHS = ("1h", "6h", "1d")  # for files of a few days
DISTINCT_OVER = frozenset({"device", "ip", "email", "account", "card", "customer", "sender", "recipient"})


def default_features(schema: Schema, profile: TableProfile) -> list[Feature]:
    """A sensible FeatureSet for a schema; ``profile`` says how busy entities are and how long the file is."""
    names: set[str] = set()
    found: list[Feature] = []
    for feature in [
        *_of_the_event(schema),
        *_of_attributes(schema),
        *(feature for entity in schema.entities for feature in _of_entity(schema, entity, profile)),
        *_distances(schema),
    ]:
        if feature.name not in names:
            names.add(feature.name)
            found.append(feature)
    return found


def lengths(schema: Schema, profile: TableProfile) -> tuple[str, ...]:
    """The windows' lengths: days, or hours when the file covers less than a week."""
    days = times.span_s(profile[schema.event_time.column], schema.event_time) / 86_400
    return SHORT_LENGTHS if 0 < days < 7 else LENGTHS


def _of_the_event(schema: Schema) -> list[Feature]:
    found: list[Feature] = []
    if schema.amount is not None:
        found.append(AttributeFeature(name="amount", of=AMOUNT_INPUT))
    if schema.event_time.format.value != "days_from":
        found.append(AttributeFeature(name="hour_of_day", of=TIME_INPUT, transform=Transform.hour_of_day))
    if schema.event_time.start is None or schema.entities:
        found.append(AttributeFeature(name="day_of_week", of=TIME_INPUT, transform=Transform.day_of_week))
    return found


def _of_attributes(schema: Schema) -> list[Feature]:
    found: list[Feature] = []
    for name, attribute in schema.attributes.items():
        plain = _plain(name)
        if attribute.type is AttributeType.time:
            found.append(AttributeFeature(name=f"{plain}_days", of=name, transform=Transform.days_since))
        elif attribute.type is not AttributeType.category or attribute.vocabulary:
            found.append(AttributeFeature(name=plain, of=name, input=not _coordinate(name)))
    return found


def _of_entity(schema: Schema, entity: str, profile: TableProfile) -> list[Feature]:
    column = profile[schema.entities[entity]]
    hot = profile.rows * column.filled / max(column.all_distinct, 1) > HOT_ROWS
    spans = lengths(schema, profile)
    steps = {length: "1h" if hot and length in {"7d", "30d"} else "1us" for length in spans}
    found: list[Feature] = []
    if "1h" not in spans and schema.event_time.format.value != "days_from":
        found.append(WindowFeature(name=f"{entity}_count_1h", over=entity, agg=Aggregation.count, length="1h"))
    found += [
        WindowFeature(
            name=f"{entity}_count_{length}", over=entity, agg=Aggregation.count, length=length, resolution=step
        )
        for length, step in steps.items()
    ]
    if schema.amount is not None:
        for length in spans[1:]:
            found += _amounts(entity, length, steps[length])
    found += [
        WindowFeature(
            name=f"{entity}_{other}s_{spans[1]}", over=entity, agg=Aggregation.nunique, of=other, length=spans[1]
        )
        for other in schema.entities
        if other != entity and {entity, other} <= DISTINCT_OVER
    ]
    if schema.label is not None:
        found += [
            LabelWindowFeature(name=f"{entity}_{agg}_{length}", over=entity, agg=agg, length=length, resolution=step)
            for length, step in steps.items()
            for agg in (LabelAggregation.fraud_count, LabelAggregation.fraud_rate)
        ]
    return found


def _amounts(entity: str, length: str, step: str) -> list[Feature]:
    """Mean and spread of the entity's amounts, and how the amount of the transaction compares."""

    def window(agg: Aggregation, *, shown: bool = True) -> WindowFeature:
        return WindowFeature(
            name=f"{entity}_amount_{agg}_{length}",
            over=entity,
            agg=agg,
            of=AMOUNT_INPUT,
            length=length,
            resolution=step,
            input=shown,
        )

    mean, std, largest = window(Aggregation.mean), window(Aggregation.std), window(Aggregation.max, shown=False)
    whose = f"of this {entity} in the last {duration_words(length)}"

    def compared(name: str, expression: str, text: str) -> DerivedFeature:
        return DerivedFeature(name=f"{entity}_amount_{name}_{length}", expression=expression, text=f"{text} {whose}")

    return [
        mean,
        std,
        largest,
        compared("ratio", f"amount / {mean.name}", "amount as a multiple of the average"),
        compared("z", f"(amount - {mean.name}) / {std.name}", "amount's distance, in spreads, from the average"),
        compared("of_max", f"amount / {largest.name}", "amount as a multiple of the largest"),
    ]


def _distances(schema: Schema) -> list[Feature]:
    """Distance between the two places of a transaction, and from the entity's previous one."""
    pairs = _pairs(schema)
    found: list[Feature] = []
    home = next((pair for side, pair in pairs.items() if not side & words.MERCHANT_SIDE), None)
    place = next((pair for side, pair in pairs.items() if side & words.MERCHANT_SIDE), None)
    if home is not None and place is not None:
        found.append(
            DerivedFeature(
                name="km_from_home",
                expression=f"haversine_km({', '.join((*home, *place))})",
                text="distance from home to where it took place, in km",
            )
        )
    moving = place or home
    entity = next((name for name in schema.entities if name not in {"merchant", "terminal"}), None)
    if moving is None or entity is None:
        return found
    latitude, longitude = moving
    of = {_plain(name): name for name in schema.attributes}
    return [
        *found,
        LastFeature(name=f"{entity}_last_{latitude}", over=entity, of=of[latitude], input=False),
        LastFeature(name=f"{entity}_last_{longitude}", over=entity, of=of[longitude], input=False),
        LastFeature(name=f"{entity}_seconds_since_last", over=entity, of=TIME_INPUT, input=False),
        DerivedFeature(
            name="km_from_previous",
            expression=f"haversine_km({latitude}, {longitude}, {entity}_last_{latitude}, {entity}_last_{longitude})",
            text=f"distance from the previous transaction of this {entity}, in km",
        ),
        DerivedFeature(
            name="km_per_hour_from_previous",
            expression=f"km_from_previous / max({entity}_seconds_since_last / 3600, 0.01)",
            text=f"speed since the previous transaction of this {entity}, in km/h",
        ),
    ]


def _pairs(schema: Schema) -> dict[frozenset[str], tuple[str, str]]:
    """Names of latitude and longitude features, by what else their names say (``merch`` and so on)."""
    latitudes: dict[frozenset[str], str] = {}
    longitudes: dict[frozenset[str], str] = {}
    for name in schema.attributes:
        if not _coordinate(name):
            continue
        said = frozenset(words.parts(name))
        found, own = (latitudes, words.LATITUDE) if said & words.LATITUDE else (longitudes, words.LONGITUDE)
        found[said - own] = _plain(name)
    return {side: (latitudes[side], longitudes[side]) for side in latitudes if side in longitudes}


def _coordinate(name: str) -> bool:
    return bool(set(words.parts(name)) & (words.LATITUDE | words.LONGITUDE))


_RESERVED_FEATURES = frozenset({"amount", "hour_of_day", "day_of_week"})


def _plain(name: str) -> str:
    plain = words.slug(name)
    return f"{plain}_value" if plain in _RESERVED_FEATURES else plain
