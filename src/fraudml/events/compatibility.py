"""Whether messages of an old schema and of a new one understand each other: :mod:`fraudml.events.message_schema`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fraudml.events.message_schema import MEANING, Json, bare

READ = frozenset({"transaction", "label"})  # messages that fraudml reads; it writes the others
_TEXTS = frozenset({"identifier", "entity", "category"})  # read alike
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum", "maxLength")


class Change(NamedTuple):
    """One difference between two schemas of a message; ``what`` is a sentence about the field."""

    message: str
    field: str
    compatible: bool
    what: str


def changes(old: Json, new: Json) -> list[Change]:
    """What differs between two schemas of one message, what breaks something first; empty when nothing does.

    Compatible is a change after which the new fraudml reads every message that the old one did, as the same; or, of a
    message that fraudml writes, after which readers of the old ones can read every new one.
    """
    found = [Change(old["title"], *each) for each in _Pair(old["title"] in READ).objects("", old, new)]
    return sorted(found, key=lambda change: (change.compatible, change.field, change.what))


_Found = tuple[str, bool, str]  # field, whether it is compatible, what


class _Pair:
    """The comparison. Whatever the direction, what the writer may send is what the reader has to understand."""

    def __init__(self, read: bool) -> None:
        self._read = read

    def objects(self, path: str, old: Json, new: Json) -> Iterator[_Found]:
        """The differences between two objects, field by field."""
        before, after = old["properties"], new["properties"]
        places = _places(before), _places(after)
        moved = {name for name in places[0].keys() & places[1].keys() if places[0][name] != places[1][name]}
        for name in moved:
            then, now = places[0][name], places[1][name]
            yield path + then, False, f"{name} is the field {now} now, no longer {then}"
        for column in before.keys() | after.keys():
            place, needed = path + column, (column in old["required"], column in new["required"])
            if column in before and column in after:
                yield from self._required(place, *needed)
                yield from self._field(place, before[column], after[column], moved)
            elif column in before and not before[column].get(MEANING, {}).keys() & moved:
                yield (place, *self._removed(needed[0]))
            elif column in after and not after[column].get(MEANING, {}).keys() & moved:
                yield (place, *self._added(needed[1]))

    def _added(self, required: bool) -> tuple[bool, str]:
        if not self._read:
            return True, "is new"
        if required:
            return False, "is new and required; messages without it are refused"
        return True, "is new, and may be missing"

    def _removed(self, required: bool) -> tuple[bool, str]:
        if self._read:
            return False, "is gone; messages that have it are refused; list it under schema.ignore to accept them"
        return not required, "is gone; " + ("it was always there" if required else "it could be missing before")

    def _required(self, place: str, before: bool, after: bool) -> Iterator[_Found]:
        if before != after:
            what = "is required now" if after else "may be missing now"
            yield place, after != self._read, what

    def _field(self, place: str, old: Json, new: Json, moved: set[str]) -> Iterator[_Found]:
        if "properties" in old and "properties" in new:
            yield from self.objects(f"{place}.", old, new)
            return
        before, after = old.get(MEANING, {}), new.get(MEANING, {})
        writes, reads = (before, after) if self._read else (after, before)
        same = before.keys() == after.keys()
        for name in before.keys() & after.keys():
            for fact in sorted(before[name].keys() | after[name].keys(), key=lambda fact: (fact != "is", fact)):
                then, now = before[name].get(fact), after[name].get(fact)
                if then != now:
                    same &= fact == "vocabulary"
                    yield place, _harmless(fact, writes[name], reads[name]), _told(fact, then, now)
                    if fact == "is":
                        break  # the others are not of the same kind
        for name in before.keys() - after.keys() - moved:
            yield place, self._read or _known(before[name], after), f"is no longer {name}"
        for name in after.keys() - before.keys() - moved:
            kind = after[name]["is"]
            yield place, not self._read or _known(after[name], before), f"is {name} now, read as {kind}"
        if same:
            yield from self._shape(place, old, new)

    def _shape(self, place: str, old: Json, new: Json) -> Iterator[_Found]:
        then, now = ({k: v for k, v in bare(each).items() if k != MEANING} for each in (old, new))
        if then != now:
            compatible = _covers(now, then) if self._read else _covers(then, now)
            words = sorted(word for word in then.keys() | now.keys() if then.get(word) != now.get(word))
            yield place, compatible, "; ".join(_told(word, then.get(word), now.get(word)) for word in words)


def _places(properties: Json) -> dict[str, str]:
    """Where each declared name is read from."""
    return {name: column for column, shape in properties.items() for name in shape.get(MEANING, ())}


def _harmless(fact: str, writes: Json, reads: Json) -> bool:
    """Whether values of which a fact differs are read as they were meant."""
    if fact == "is":
        return _alike(writes["is"], reads["is"])
    # A value that is not listed is a value all the same. Where no zone was named, every time had one of its own.
    return fact == "vocabulary" or (fact == "timezone" and fact not in writes)


def _alike(written: str, read: str) -> bool:
    return written == read or (written, read) == ("integer", "number") or {written, read} <= _TEXTS


def _known(facts: Json, others: Json) -> bool:
    """Whether what is read so was read so under another name: then it holds nothing else."""
    return any(
        _alike(other["is"], facts["is"])
        and all(
            _harmless(fact, other, facts) for fact in other.keys() | facts.keys() if other.get(fact) != facts.get(fact)
        )
        for other in others.values()
    )


def _told(fact: str, then: Any, now: Any) -> str:
    if fact == "vocabulary":
        before, after = set(then or ()), set(now or ())
        parts = {"adds": after - before, "drops": before - after}
        return "vocabulary " + " and ".join(f"{word} {', '.join(sorted(some))}" for word, some in parts.items() if some)
    return f"{'type' if fact == 'is' else fact} {_word(then)} -> {_word(now)}"


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(map(str, value))
    return "none" if value is None else str(value)


def _covers(wide: Json, narrow: Json) -> bool:
    """Whether every value of the narrow shape is one of the wide shape, as far as our schemas say it."""
    if not wide or wide == narrow:
        return True
    if "anyOf" in narrow:
        return all(_covers(wide, each) for each in narrow["anyOf"])
    if "anyOf" in wide:
        return any(_covers(each, narrow) for each in wide["anyOf"])
    return (
        _types(narrow) <= _types(wide) | ({"integer"} if "number" in _types(wide) else set())
        and all(wide[word] <= narrow.get(word, float("-inf")) for word in _LOWER if word in wide)
        and all(wide[word] >= narrow.get(word, float("inf")) for word in _UPPER if word in wide)
        and all(wide[word] == narrow.get(word) for word in ("format", "pattern") if word in wide)
        and ("enum" not in wide or set(narrow.get("enum", (object(),))) <= set(wide["enum"]))
        and _covers(wide.get("items", {}), narrow.get("items", {}))
    )


def _types(shape: Json) -> set[str]:
    """The types that a shape allows; a type that it does not name stands for any."""
    named = shape.get("type", "string" if "enum" in shape else "any")
    return {named} if isinstance(named, str) else set(named)
