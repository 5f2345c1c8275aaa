"""What a decision could know: events and label reports in the order in which others could see them.

Of its own process a decision has seen all that came before it. Of each other one it has seen what that had written
until it read. Between processes arrival numbers tell the order of clocks, not of state: each other process may have
been a little further, or less far. Two things are seen at other times than their numbers say:

- A process may end between putting a batch into state and logging it: others see that batch long before it is decided
  again, which such decisions say (``entered_us``).
- A decision that was made without state put its event there when it could: before its number or any time after it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import chain, islice, product
from typing import Generic, NamedTuple, TypeVar

import pyarrow as pa

from fraudml.decisions.log import ARRIVAL, WRITERS, DecisionLog
from fraudml.events.label import Label
from fraudml.events.schema import AMOUNT, EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet

CONCURRENT_US = 15_000_000  # as far as clocks of several machines and batches may be apart, or a call of state takes
HISTORY_ARRIVAL = -1  # history was there before every decision
BLIND_US = 600_000_000  # so far away a decision without state may be one that others have not seen, or have
NEAREST = 8  # events of each voice, and voices, that are asked about where one moment for all explains nothing
MOST_VIEWS = 2_000
_Event = TypeVar("_Event", Transaction, Label)
_Entity = tuple[int, str | None]  # its place among the schema's, and its key
_Voice = tuple[int, int]  # what entered state in a known order: a process, or a batch that it left behind


class Numbered(NamedTuple, Generic[_Event]):
    """An event with its arrival number; ``seen_from``: the number from which others could see it, if less; ``batch``:
    the same for all that one call decided; ``blind``: decided without state."""

    event: _Event
    arrival: int
    seen_from: int
    batch: int = 0
    blind: bool = False

    @property
    def voice(self) -> _Voice:
        """Events of one voice were seen in the order of ``seen_from``."""
        if self.blind:
            return self.arrival, 2
        return (self.seen_from, 1) if self.seen_from < self.arrival else (self.arrival % WRITERS, 0)


class View(NamedTuple):
    """What may have been seen of others: of each voice what was seen from before a number; of those that are not named
    before ``moment``. ``mates``: of its own batch also what was in state before, though it comes later."""

    moment: int
    cuts: Mapping[_Voice, int] = {}
    mates: bool = False


class Known:
    """Events and label reports by entity."""

    def __init__(self, events: Sequence[Numbered[Transaction]], labels: Sequence[Numbered[Label]]) -> None:
        self.by_id = {each.event.transaction_id: each for each in events}
        self._events = _by_entity(events)
        self._labels = _by_entity(labels)

    def before(
        self, decision: Numbered[Transaction], view: View, positions: Container[int]
    ) -> tuple[list[Transaction], list[Label]]:
        """What a decision could know about its entities at these positions."""
        mine = [pair for pair in enumerate(decision.event.entities) if pair[0] in positions]
        events = {id(event): event for pair in mine for event in _seen(decision, view, self._events.get(pair, []))}
        labels = {id(label): label for pair in mine for label in _seen(decision, view, self._labels.get(pair, []))}
        return list(events.values()), list(labels.values())

    def views(self, decision: Numbered[Transaction]) -> Iterator[View]:
        """The views that it may have had, the likeliest first: one moment for all, then one for each voice."""
        arrival = decision.arrival
        near: dict[_Voice, set[int]] = {}
        mates = False
        for pair in enumerate(decision.event.entities):
            for each in (*self._events.get(pair, ()), *self._labels.get(pair, ())):
                mates |= _is_mate(each, decision)
                around_us = BLIND_US if each.blind else CONCURRENT_US
                is_near = each.seen_from - around_us <= arrival <= each.arrival + around_us
                if is_near and not _is_own(each, decision):
                    near.setdefault(each.voice, set()).add(each.seen_from)

        def distance(number: int) -> int:
            return abs(number - arrival)

        moments = {arrival, *(at for numbers in near.values() for number in numbers for at in (number, number + 1))}
        nearest = sorted(moments, key=distance)
        yield from (View(moment) for moment in nearest)
        if mates:
            yield from (View(moment, mates=True) for moment in nearest)
        if len(near) > 1:
            voices = sorted(near, key=lambda voice: min(map(distance, near[voice])))[:NEAREST]
            options = []
            for voice in reversed(voices):  # the nearest one varies most
                numbers = sorted(near[voice], key=distance)[:NEAREST]
                cuts = {*numbers, max(numbers) + 1}  # before, between and behind them
                options.append([(voice, cut) for cut in sorted(cuts, key=distance)])
            for combined in islice(product(*options), MOST_VIEWS):
                yield View(arrival, dict(combined), mates)


def gather(
    past: Sequence[pa.RecordBatch], log: DecisionLog, feature_set: FeatureSet, suspects: Container[str]
) -> Known:
    """All events and label reports that share an entity with a suspect."""
    logged = chain.from_iterable(transactions(batch, feature_set) for batch in log.audit_batches())
    targets = (event for event in logged if event.transaction_id in suspects)
    wanted = {pair for event in targets for pair in enumerate(event.entities) if pair[1] is not None}
    found: dict[str, Numbered[Transaction]] = {}
    labels = []
    for batch in past:
        verdicts = zip(batch.column(IS_FRAUD).to_pylist(), batch.column(KNOWN_AT).to_pylist(), strict=True)
        for event, (fraud, known_at) in zip(transactions(batch, feature_set), verdicts, strict=True):
            if not wanted.isdisjoint(enumerate(event.entities)):
                found[event.transaction_id] = Numbered(event, HISTORY_ARRIVAL, HISTORY_ARRIVAL)
                if fraud is not None:
                    label = Label(event.transaction_id, fraud, known_at, event.entities)
                    labels.append(Numbered(label, HISTORY_ARRIVAL, HISTORY_ARRIVAL))
    entered = log.entered_before()
    for batch in log.audit_batches():
        facts = zip(*(batch.column(name).to_pylist() for name in (ARRIVAL, "decided_at_us", "blind")), strict=True)
        for (arrival, *rest), event in zip(facts, transactions(batch, feature_set), strict=True):
            if not wanted.isdisjoint(enumerate(event.entities)):
                found[event.transaction_id] = Numbered(event, arrival, entered.get(arrival, arrival), *rest)
    for batch in log.audit_labels():
        columns = (TRANSACTION_ID, IS_FRAUD, KNOWN_AT, ARRIVAL)
        for key, fraud, known_at, arrival in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
            if key in found:
                label = Label(key, fraud, known_at, found[key].event.entities)
                labels.append(Numbered(label, arrival, arrival))
    return Known(list(found.values()), labels)


def transactions(batch: pa.RecordBatch, feature_set: FeatureSet) -> Iterator[Transaction]:
    """The transactions of a batch that has the columns of ``events.source.arrow_schema``, or more."""
    schema = feature_set.schema
    count = len(schema.entities)
    names = [TRANSACTION_ID, EVENT_TIME, AMOUNT, *schema.entity_names, *schema.attribute_names]
    for key, event_time, amount, *values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        yield Transaction(key, event_time, tuple(values[:count]), amount, tuple(values[count:]))


def _by_entity(numbered: Sequence[Numbered[_Event]]) -> dict[_Entity, list[Numbered[_Event]]]:
    found: dict[_Entity, list[Numbered[_Event]]] = {}
    for each in numbered:
        for pair in enumerate(each.event.entities):
            if pair[1] is not None:
                found.setdefault(pair, []).append(each)
    for some in found.values():
        some.sort(key=_seen_from)
    return found


def _seen(decision: Numbered[Transaction], view: View, numbered: list[Numbered[_Event]]) -> Iterator[_Event]:
    """Of those of one entity what the decision could know."""
    until = bisect_left(numbered, max(decision.arrival, view.moment, *view.cuts.values()), key=_seen_from)
    for each in numbered[:until]:
        if _is_own(each, decision):
            seen = each.arrival < decision.arrival or (view.mates and _is_mate(each, decision))
        else:
            seen = each.seen_from < view.cuts.get(each.voice, view.moment)
        if seen:
            yield each.event


def _is_own(each: Numbered[_Event], decision: Numbered[Transaction]) -> bool:
    """Whether the decision's own process says when it was seen: unless another process had put it into state, and then
    not for those of one batch, which see each other in their order whatever state has of them."""
    same = each.arrival % WRITERS == decision.arrival % WRITERS
    return same and (each.seen_from == each.arrival or each.arrival < decision.arrival or each.batch == decision.batch)


def _is_mate(each: Numbered[_Event], decision: Numbered[Transaction]) -> bool:
    """Whether it comes later in the same batch, and was in state before; a large batch is read in parts, and a part
    leaves out only its own events of what state has."""
    return each.seen_from < decision.arrival < each.arrival and each.batch == decision.batch > 0


def _seen_from(each: Numbered[_Event]) -> int:
    return each.seen_from
