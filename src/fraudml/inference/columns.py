"""What a column without a role of its own is as an attribute."""

from __future__ import annotations

from fraudml.events.normalise import NULL_WORDS
from fraudml.events.profile import ColumnProfile
from fraudml.events.schema import Attribute, AttributeType
from fraudml.events.units import INTEGER_LIMIT
from fraudml.inference import words

VOCABULARY = 200


def is_row_number(column: ColumnProfile) -> bool:
    """True for a column that only numbers the rows of the file, such as the index that pandas writes."""
    name = set(words.parts(column.name)) - {"0"}
    named = not name or bool(name & words.INDEX)
    return named and column.whole == 1 and column.rising == 1 and column.distinct == column.rows


def attribute_of(column: ColumnProfile, rows: int) -> tuple[Attribute | None, str]:
    """The attribute that a column is, and why; or ``None`` and why it is ignored."""
    name = set(words.parts(column.name))
    if column.booleans == 1 and column.distinct == 2:
        return Attribute(AttributeType.boolean), "two values: true or false"
    if column.numbers == 1:
        largest = max(abs(column.minimum or 0.0), abs(column.maximum or 0.0))
        if largest >= INTEGER_LIMIT and column.whole > 0.5:
            return None, "numbers too long to be anything but identifiers, and they do not repeat like an entity's"
        codes = name & words.CODES and not name & words.QUANTITY and column.whole == 1
        if not (codes and 2 < column.distinct <= 0.2 * column.values):
            empty = f", {1 - column.filled:.0%} missing" if column.filled < 1 else ""
            return Attribute(AttributeType.number), f"a number{empty}"
    return _category(column, rows)


def _category(column: ColumnProfile, rows: int) -> tuple[Attribute | None, str]:
    if column.cards > 0.1:
        return None, "holds card numbers that do not repeat like an entity's"
    if column.distinct > VOCABULARY and column.distinct > 0.2 * max(column.values, 1):
        return None, "text that hardly repeats"
    if 0.5 < column.numbers < 1 and column.distinct > VOCABULARY:
        return (
            None,
            f"{column.numbers:.0%} of it are numbers and the rest is text; clean it, then declare it as a number",
        )
    values = tuple(value for value, _ in column.top[:VOCABULARY] if value.lower() not in NULL_WORDS)
    if not values:
        return None, "no value but words for missing"
    said = f"a category of {column.distinct} values"
    if column.all_distinct > VOCABULARY:
        said = f"a category of {column.all_distinct:,} values; the {len(values)} most frequent have codes"
    return Attribute(AttributeType.category, vocabulary=values), said
