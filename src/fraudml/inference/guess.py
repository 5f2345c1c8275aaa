"""From facts about columns to a schema, with a reason for every decision.

Columns are given away role by role: label, event time, id, amount, coordinates, entities; what remains is an
attribute or is ignored.
"""

from __future__ import annotations

import msgspec

from fraudml.errors import DataError
from fraudml.events.profile import ColumnProfile, TableProfile
from fraudml.events.schema import (
    NOT_FOR_COLUMNS,
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
)
from fraudml.events.units import INTEGER_LIMIT
from fraudml.inference import times, words
from fraudml.inference.columns import attribute_of, is_row_number

MAX_ENTITIES = 4
DEFAULT_DELAY_DAYS = 7
SURELY_LEAKS = 0.95


class Guess(msgspec.Struct, frozen=True):
    """A schema, why each column (or ``label.delay`` and the like) is what it is, and what to look at twice."""

    schema: Schema
    reasons: dict[str, str]
    warnings: tuple[str, ...] = ()

    def without_leaks(self, purity: dict[str, float]) -> Guess:
        """Ignore attributes that by themselves all but tell the label: they were filled in afterwards.

        ``purity`` maps columns to how well each tells the label, from 0 to 1.
        """
        leaks = {column: share for column, share in purity.items() if share >= SURELY_LEAKS}
        kept = {
            name: attribute
            for name, attribute in self.schema.attributes.items()
            if self.schema.attribute_column(name) not in leaks
        }
        said = {column: f"ignored: it alone tells the label ({share:.0%})" for column, share in leaks.items()}
        schema = msgspec.structs.replace(
            self.schema, attributes=kept, ignore=tuple(dict.fromkeys((*self.schema.ignore, *leaks)))
        )
        warnings = [
            f"{column} tells the label by itself, so it is ignored: it looks filled in later" for column in leaks
        ]
        return Guess(schema, {**self.reasons, **said}, (*self.warnings, *warnings))


def guess(profile: TableProfile) -> Guess:
    """Guess the schema; raises DataError when no column can be the event's time."""
    return _Guesser(profile).run()


class _Guesser:
    def __init__(self, profile: TableProfile) -> None:
        self.profile = profile
        self.left = {column.name: column for column in profile.columns}
        self.reasons: dict[str, str] = {}
        self.warnings: list[str] = []
        self.ignored: list[str] = []
        self.attributes: dict[str, Attribute] = {}
        self.entities: dict[str, str] = {}

    def run(self) -> Guess:
        self._set_aside_empty()
        label = self._label()
        time = self._time()
        identifier = self._identifier()
        amount = self._amount()
        label = self._describing_the_fraud(label)
        self._other_times(time)
        self._coordinates()
        self._personal()
        self._entities_by_name()
        if label is not None:
            label = self._with_delay(label, time)
        else:
            self.warnings.append("no label column was found: features can be computed, but no model can be trained")
        for column in list(self.left.values()):
            self._attribute(column)
        if not self.entities:
            self.warnings.append(
                "no column repeats like a customer, card or merchant, so features come from each transaction alone"
            )
        schema = Schema(
            event_time=time,
            transaction_id=identifier,
            entities=self.entities,
            amount=amount,
            attributes=self.attributes,
            label=label,
            ignore=tuple(name for name in self.profile_order() if name in self.ignored),
        )
        return Guess(schema.check(), self.reasons, tuple(self.warnings))

    def profile_order(self) -> list[str]:
        return [column.name for column in self.profile.columns]

    def _take(self, column: ColumnProfile, why: str) -> None:
        self.left.pop(column.name, None)
        self.reasons[column.name] = why

    def _ignore(self, column: ColumnProfile, why: str) -> None:
        self._take(column, f"ignored: {why}")
        self.ignored.append(column.name)

    def _set_aside_empty(self) -> None:
        for column in list(self.left.values()):
            name = set(words.parts(column.name))
            if column.filled == 0:
                self._ignore(column, "empty")
            elif column.distinct <= 1 and column.filled == 1 and not name & words.LABEL.keys():
                self._ignore(column, "the same value in every row")

    def _label(self) -> LabelColumn | None:
        candidates = [(score, column) for column in self.left.values() if (score := _label_score(column)) > 0]
        if not candidates:
            return None
        _, column = max(candidates, key=lambda pair: pair[0])
        self._take(column, "the label: by its name, and it has two values")
        found = LabelColumn(column.name)
        values = {value.lower() for value, _ in column.top}
        return msgspec.structs.replace(
            found,
            fraud=tuple(dict.fromkeys((*found.fraud, *sorted(values & _MORE_FRAUD)))),
            genuine=tuple(dict.fromkeys((*found.genuine, *sorted(values & _MORE_GENUINE)))),
        )

    def _time(self) -> TimeColumn:
        candidates = []
        for column in self.left.values():
            read = times.read(column)
            if read is not None:
                candidates.append((times.score(column, read[0]), column, *read))
        candidates = [candidate for candidate in candidates if candidate[0] > 0]
        if not candidates:
            raise DataError(
                f"no column of {self.profile.source} looks like the time of the transaction; fraudml needs one: "
                "ISO 8601 text, a date-time type, an epoch, or seconds from a start"
            )
        _, column, time, why = max(candidates, key=lambda candidate: candidate[0])
        self._take(column, f"the event's time: {why}")
        return time

    def _identifier(self) -> str | None:
        scored = [(score, column) for column in self.left.values() if (score := _id_score(column)) > 0]
        if not scored:
            self.reasons["transaction_id"] = "no column identifies a transaction, so rows are numbered"
            return None
        _, column = max(scored, key=lambda pair: pair[0])
        self._take(column, "the transaction's id: by its name, and no value repeats")
        return column.name

    def _amount(self) -> AmountColumn | None:
        scored = []
        for column in self.left.values():
            name = words.parts(column.name)
            points = max((words.AMOUNT.get(word, 0) for word in name), default=0)
            if points and column.numbers > 0.99 and column.distinct > 10 and not set(name) & words.NOT_AMOUNT:
                scored.append((points + column.filled, column))
        if not scored:
            return None
        _, column = max(scored, key=lambda pair: pair[0])
        decimals = 2 if column.decimals <= 2 else min(column.decimals, 4)
        largest = max(abs(column.minimum or 0.0), abs(column.maximum or 0.0))
        while decimals and largest * 10**decimals * 10 > INTEGER_LIMIT:
            decimals -= 1
        negative = (column.minimum or 0.0) < 0
        self._take(column, "the amount: by its name" + ("; negative ones occur" if negative else ""))
        return AmountColumn(column.name, decimals, allow_negative=negative, optional=column.filled < 1)

    def _describing_the_fraud(self, label: LabelColumn | None) -> LabelColumn | None:
        """Columns written after the fact: a report's time dates the label, the rest would betray it."""
        for column in list(self.left.values()):
            name = set(words.parts(column.name))
            about_fraud = any("fraud" in word for word in name) or bool(name & {"chargeback", "dispute", "isflagged"})
            if not about_fraud and not (name & words.REPORT and times.read(column)):
                continue
            read = times.read(column)
            if label is not None and read is not None and read[0].start is None and label.known_at is None:
                label = msgspec.structs.replace(label, known_at=read[0])
                self._take(column, "when the label became known")
            else:
                self._ignore(column, "it describes the fraud itself or somebody's verdict, not known when scoring")
        return label

    def _other_times(self, event_time: TimeColumn) -> None:
        for column in list(self.left.values()):
            name = set(words.parts(column.name))
            read = times.read(column)
            if read is None:
                continue
            time = read[0]
            if name & (words.BIRTH | words.EARLIER) and time.start is None:
                self._add_time(column, time)
            elif time.start is None:
                if column.rising > 0.95 or time.format is not time.format.iso:
                    self._ignore(column, f"another way of writing {event_time.column}")
                else:
                    self._add_time(column, time)
            elif column.rising > 0.99 and self.profile[event_time.column].rising > 0.99:
                self._ignore(column, f"grows with {event_time.column}: another way of writing it")

    def _add_time(self, column: ColumnProfile, time: TimeColumn) -> None:
        self._take(column, "a time; features use the days since")
        self._add(column, Attribute(AttributeType.time, format=time.format, timezone=time.timezone))

    def _coordinates(self) -> None:
        for column in list(self.left.values()):
            name = set(words.parts(column.name))
            limit = 90 if name & words.LATITUDE else 180 if name & words.LONGITUDE else 0
            if limit and column.numbers > 0.99 and max(abs(column.minimum or 0), abs(column.maximum or 0)) <= limit:
                self._take(column, "a coordinate; features use distances")
                self._add(column, Attribute(AttributeType.number))

    def _personal(self) -> None:
        for column in list(self.left.values()):
            name = set(words.parts(column.name))
            named = name <= words.PERSONAL | {"name"} or (name & words.PERSONAL and column.numbers < 0.5)
            if named and name != {"name"} and column.numbers < 0.99:
                self._ignore(column, "personal, and nothing a score should rest on")

    def _entities_by_name(self) -> None:
        for entity, hints in words.ENTITIES:
            columns = [
                c for c in self.left.values() if set(words.parts(c.name)) & hints and _repeats(c, self.profile.rows)
            ]
            if columns and len(self.entities) < MAX_ENTITIES:
                column = max(columns, key=lambda c: (bool(set(words.parts(c.name)) & words.IDENTIFIER), c.all_distinct))
                self._add_entity(entity, column)
        for column in list(self.left.values()):
            if len(self.entities) >= MAX_ENTITIES:
                return
            if _repeats(column, self.profile.rows) and (
                column.cards > 0.9 or words.IDENTIFIER & set(words.parts(column.name))
            ):
                name = words.slug(column.name)
                self._add_entity(
                    "card" if column.cards > 0.9 else name if name not in NOT_FOR_COLUMNS else f"{name}_key", column
                )

    def _add_entity(self, entity: str, column: ColumnProfile) -> None:
        if entity in self.entities:
            return
        self.entities[entity] = column.name
        each = self.profile.rows * column.filled / max(column.all_distinct, 1)
        note = "; card numbers, stored only as keyed hashes" if column.cards > 0.9 else ""
        self._take(
            column, f"an entity: {column.all_distinct:,} different values, each {each:,.0f} times on average{note}"
        )

    def _attribute(self, column: ColumnProfile) -> None:
        if is_row_number(column):
            self._ignore(column, "numbers the rows")
            return
        attribute, why = attribute_of(column, self.profile.rows)
        if attribute is None:
            self._ignore(column, why)
            return
        self._take(column, why)
        self._add(column, attribute)

    def _add(self, column: ColumnProfile, attribute: Attribute) -> None:
        name = column.name
        taken = {existing.casefold() for existing in (*self.entities, *self.attributes)} | NOT_FOR_COLUMNS
        while name.casefold() in taken:
            name = f"{name}_value"
        renamed = msgspec.structs.replace(attribute, column=column.name) if name != column.name else attribute
        self.attributes[name] = renamed

    def _with_delay(self, label: LabelColumn, time: TimeColumn) -> LabelColumn:
        days = times.span_s(self.profile[time.column], time) / 86_400
        delay = f"{DEFAULT_DELAY_DAYS}d"
        why = f"{delay} is a guess: how long it takes until a fraud is known"
        if 0 < days < 8 * DEFAULT_DELAY_DAYS:
            delay = f"{int(days // 10)}d" if days >= 10 else f"{max(1, int(days * 24 // 10))}h"
            why = (
                f"{delay}: a tenth of the file's {days:.0f} days, as a longer delay would leave no label to learn from"
            )
        self.reasons["label.delay"] = why
        return msgspec.structs.replace(label, delay=delay)


_MORE_FRAUD = frozenset({"fraudulent", "bad", "chargeback", "fraudster"})
_MORE_GENUINE = frozenset({"normal", "good", "ok", "non-fraud", "not fraud", "nonfraud", "none", "legitimate"})


def _label_score(column: ColumnProfile) -> float:
    values = {value.lower() for value, _ in column.top}
    known = LabelColumn("")
    if not 0 < column.distinct <= 2 or not values <= {*known.fraud, *known.genuine, *_MORE_FRAUD, *_MORE_GENUINE}:
        return 0.0
    name = words.parts(column.name)
    if {"flagged", "type", "flag"} & set(name) and "fraud" in name:
        return 1.5
    points = max((words.LABEL.get(word, 0) for word in name), default=0)
    return points if points else 3.0 * any("fraud" in word for word in name)


def _id_score(column: ColumnProfile) -> float:
    nearly_unique = column.filled == 1 and column.distinct > 0.999 * column.rows and column.rows > 1
    if not nearly_unique or is_row_number(column) or column.numbers > column.whole or column.times > 0.5:
        return 0.0
    name = set(words.parts(column.name))
    of_an_entity = any(name & hints for _, hints in words.ENTITIES)
    if name & words.IDENTIFIER or name in ({"transactionid"}, {"tid"}):
        return 4.0 if name & words.TRANSACTION else 1.0 if of_an_entity else 2.0
    if name <= words.TRANSACTION:
        return 2.0
    return 1.0 if column.numbers < 0.5 and column.length >= 16 and not of_an_entity else 0.0


def _repeats(column: ColumnProfile, rows: int) -> bool:
    """True for a key: text or whole numbers, more than 20 different, each several times on average."""
    if column.booleans == 1 or (column.numbers > 0.5 and (column.whole < column.numbers or (column.minimum or 0) < 0)):
        return False
    name = set(words.parts(column.name))
    if (
        name & (words.DESCRIBES - {"name"})
        or name & words.AMOUNT.keys()
        or name & (words.NOT_AMOUNT - {"orig", "dest"})
    ):
        return False
    return column.distinct > 20 and column.filled >= 0.3 and column.all_distinct <= 0.6 * rows * column.filled
