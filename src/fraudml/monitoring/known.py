"""What a decision could know: events and label reports in the order in which others could see them.

Of its own process a decision has seen all that came before it. Of others it has seen what they had written until it
read; between processes arrival numbers tell the order of clocks, not of state, so there may be several such moments. A
process may also end between putting a batch into state and logging it: others see that batch long before it is decided
again, which such decisions say (``entered_us``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import pyarrow as pa

from fraudml.decisions.log import ARRIVAL, WRITERS, DecisionLog
from fraudml.events.label import Label
from fraudml.events.schema import AMOUNT, EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet

CONCURRENT_US = 5_000_000  # as far as clocks of several machines, and batches, may be apart
HISTORY_ARRIVAL = -1  # history was there before every decision
_Event = TypeVar("_Event", Transaction, Label)
_Entity = tuple[int, str | None]  # its place among the schema's, and its key


class Numbered(NamedTuple, Generic[_Event]):
    """An event with its arrival number; ``seen_from``: the number from which others could see it, if less; ``batch``:
    the same for all that one call decided."""

    event: _Event
    arrival: int
    seen_from: int
    batch: int


class View(NamedTuple):
    """What may have been seen of other processes: what had come before a moment. ``early``: of batches that were
    decided again, from when they entered state; a process may have ended when only some state had them."""

    moment: int
    early: bool = True


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
        """The views that it may have had, the likeliest first: those of its own number, and of the numbers of what
        other processes wrote about its entities at about the same time."""
        arrival = decision.arrival
        moments, early = {arrival}, False
        for pair in enumerate(decision.event.entities):
            for each in (*self._events.get(pair, ()), *self._labels.get(pair, ())):
                early |= each.seen_from < each.arrival
                if abs(each.seen_from - arrival) <= CONCURRENT_US and not _is_own(each, decision):
                    moments |= {each.seen_from, each.seen_from + 1}
        nearest = sorted(moments, key=lambda moment: abs(moment - arrival))
        yield from (View(moment) for moment in nearest)
        if early:
            yield from (View(moment, early=False) for moment in nearest)


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
                found[event.transaction_id] = Numbered(event, HISTORY_ARRIVAL, HISTORY_ARRIVAL, 0)
                if fraud is not None:
                    label = Label(event.transaction_id, fraud, known_at, event.entities)
                    labels.append(Numbered(label, HISTORY_ARRIVAL, HISTORY_ARRIVAL, 0))
    entered = log.entered_before()
    for batch in log.audit_batches():
        numbers = zip(batch.column(ARRIVAL).to_pylist(), batch.column("decided_at_us").to_pylist(), strict=True)
        for (arrival, decided_at_us), event in zip(numbers, transactions(batch, feature_set), strict=True):
            if not wanted.isdisjoint(enumerate(event.entities)):
                seen_from = entered.get(arrival, arrival)
                found[event.transaction_id] = Numbered(event, arrival, seen_from, decided_at_us)
    for batch in log.audit_labels():
        columns = (TRANSACTION_ID, IS_FRAUD, KNOWN_AT, ARRIVAL)
        for key, fraud, known_at, arrival in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
            if key in found:
                label = Label(key, fraud, known_at, found[key].event.entities)
                labels.append(Numbered(label, arrival, arrival, 0))
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
    until = bisect_left(numbered, max(decision.arrival, view.moment), key=_seen_from)
    for each in numbered[:until]:
        if _is_own(each, decision):
            seen = each.arrival < decision.arrival
        elif view.early:
            seen = each.seen_from < view.moment
        else:
            seen = each.arrival < view.moment
        if seen:
            yield each.event


def _is_own(each: Numbered[_Event], decision: Numbered[Transaction]) -> bool:
    """Whether the decision's own process says when it was seen: unless another process had put it into state, and then
    not for those of one batch, which see each other in their order whatever state has of them."""
    same = each.arrival % WRITERS == decision.arrival % WRITERS
    return same and (each.seen_from == each.arrival or each.arrival < decision.arrival or each.batch == decision.batch)


def _seen_from(each: Numbered[_Event]) -> int:
    return each.seen_from
