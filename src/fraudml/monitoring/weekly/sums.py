"""What happened in some weeks, summed up in one pass over the decision log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import LABEL_ARRIVAL, DecisionLog
from fraudml.decisions.record import Action
from fraudml.events.schema import IS_FRAUD, TRANSACTION_ID, AttributeType, Schema
from fraudml.events.source import Progress

DAY_US = 86_400_000_000
WEEK_US = 7 * DAY_US
WEEKS = 5  # the week of the report and four before it
BANDS = (10.0, 50.0, 200.0, 1_000.0)  # of amounts, in currency units
LEVELS = {Action.approve.value: 0, Action.review.value: 1, Action.decline.value: 2}
# of each day: transactions, reviews, declines, frauds and their amount, loss stopped and missed, genuine declines known
# and their cost
(COUNT, REVIEWS, DECLINES, FRAUDS, FRAUD_AMOUNT, STOPPED, MISSED, FALSE_DECLINES, FALSE_COST, BLIND) = range(10)
SUMS = 10
MOST_VALUES = 20_000  # of an attribute that are told apart; later ones are together
OTHERS = "(all others)"

Verdicts = dict[str, bool]


class Segment(NamedTuple):
    """Some of the transactions: a value of an attribute, a band of amounts, or a part of the day."""

    attribute: str
    value: str


class Repeat(NamedTuple):
    """Who was hit by frauds of the week: ``hit`` customers or cards, say, ``again`` of them more than once."""

    entity: str
    hit: int
    again: int


class Sums(NamedTuple):
    """``days``: float64 ``[WEEKS * 7, SUMS]``; ``segments``: of each, float64 ``[WEEKS, 3]``: transactions, frauds and
    their amount. The last week is the report's, and that of ``repeats``. ``labelled``: labels known."""

    days: NDArray[np.float64]
    segments: dict[Segment, NDArray[np.float64]]
    repeats: list[Repeat]
    labelled: int

    def week(self, back: int = 0) -> NDArray[np.float64]:
        """The sums of a week, so many weeks back."""
        first = (WEEKS - 1 - back) * 7
        return np.asarray(self.days[first : first + 7].sum(axis=0))


def read(log: DecisionLog, schema: Schema, costs: Costs, since_us: int, progress: Progress | None = None) -> Sums:
    """The weeks of which the last begins at ``since_us``, with the labels that are known now."""
    first_us = since_us - (WEEKS - 1) * WEEK_US
    after = first_us - DAY_US  # an event is no further ahead of its arrival than that
    verdicts = _verdicts(log, after)
    counted = _Counted(schema, costs, first_us, verdicts)
    done = 0
    for batch in log.audit_batches(after=after):
        done += batch.num_rows
        time = batch.column("event_time_us")
        inside = pc.and_(pc.greater_equal(time, first_us), pc.less(time, since_us + WEEK_US))
        kept = batch.filter(inside)
        if kept.num_rows:
            counted.add(kept)
        if progress:
            progress(done, None)
    return Sums(counted.days, dict(counted.segments), counted.repeats(), len(verdicts))


def _verdicts(log: DecisionLog, after: int) -> Verdicts:
    """The latest verdict about each transaction that has one."""
    found: dict[str, tuple[int, bool]] = {}
    for batch in log.outcomes(after, labelled=True):
        names = (TRANSACTION_ID, LABEL_ARRIVAL, IS_FRAUD)
        for name, arrival, fraud in zip(*(batch.column(column).to_pylist() for column in names), strict=True):
            if name not in found or found[name][0] < arrival:
                found[name] = (arrival, bool(fraud))
    return {name: fraud for name, (_, fraud) in found.items()}


class _Counted:
    """What was counted so far."""

    def __init__(self, schema: Schema, costs: Costs, first_us: int, verdicts: Verdicts) -> None:
        self._schema, self._costs, self._first_us, self._verdicts = schema, costs, first_us, verdicts
        self._decimals = schema.amount.decimals if schema.amount else 0
        self.days = np.zeros((WEEKS * 7, SUMS))
        self.segments: dict[Segment, NDArray[np.float64]] = {}
        self._values: Counter[str] = Counter()  # told apart, of each attribute
        self._frauds: dict[str, Counter[str]] = {name: Counter() for name in schema.entity_names}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count these, all of which are of the weeks."""
        costs = self._costs
        day = (batch.column("event_time_us").to_numpy() - self._first_us) // DAY_US
        level = np.array([LEVELS[action] for action in batch.column("action").to_pylist()])
        known = [self._verdicts.get(name) for name in batch.column(TRANSACTION_ID).to_pylist()]
        fraud = np.array([verdict is True for verdict in known])
        genuine = np.array([verdict is False for verdict in known])
        minor = batch.column("amount_minor").to_numpy(zero_copy_only=False)
        amount = np.asarray(minor, np.float64) / 10.0**self._decimals
        amount = np.nan_to_num(np.abs(amount), nan=costs.amount_without_column)
        loss = np.where(fraud, costs.fraud_loss_share * amount + costs.chargeback_fee, 0.0)
        stopped = loss * np.array([0.0, costs.review_finds, 1.0])[level]
        wrong = genuine & (level == LEVELS["decline"])
        columns = [
            np.ones(len(day)),
            level == LEVELS["review"],
            level == LEVELS["decline"],
            fraud,
            np.where(fraud, amount, 0.0),
            stopped,
            loss - stopped,
            wrong,
            np.where(wrong, costs.margin_share * amount + costs.goodwill, 0.0),
            np.asarray(batch.column("blind").to_numpy(zero_copy_only=False), np.float64),
        ]
        np.add.at(self.days, day, np.column_stack(columns))
        values = np.column_stack([np.ones(len(day)), fraud, np.where(fraud, amount, 0.0)])
        for segment, places in _segments(batch, self._schema, amount):
            np.add.at(self._of(segment), day[places] // 7, values[places])
        hit = batch.filter(pa.array(fraud & (day >= (WEEKS - 1) * 7)))
        for name, counts in self._frauds.items():
            counts.update(value for value in hit.column(name).to_pylist() if value is not None)

    def repeats(self) -> list[Repeat]:
        """Of each entity that was hit at all."""
        return [
            Repeat(name, len(counts), sum(count > 1 for count in counts.values()))
            for name, counts in self._frauds.items()
            if counts
        ]

    def _of(self, segment: Segment) -> NDArray[np.float64]:
        found = self.segments.get(segment)
        if found is None:
            if self._values[segment.attribute] >= MOST_VALUES:
                segment = Segment(segment.attribute, OTHERS)
            else:
                self._values[segment.attribute] += 1
            found = self.segments.setdefault(segment, np.zeros((WEEKS, 3)))
        return found


def _segments(
    batch: pa.RecordBatch, schema: Schema, amount: NDArray[np.float64]
) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
    """Which rows are of which segment."""
    for name, attribute in schema.attributes.items():
        if attribute.type is AttributeType.category:
            yield from _of_values(name, batch.column(name).to_pylist())
    hours = batch.column("event_time_us").to_numpy() // (DAY_US // 24) % 24
    yield from _of_values("time of day (UTC)", [f"{hour // 6 * 6:02d} to {hour // 6 * 6 + 6:02d} h" for hour in hours])
    if schema.amount is not None:
        yield from _of_values("amount", [_band(value) for value in np.searchsorted(BANDS, amount, side="right")])


def _of_values(name: str, values: Sequence[str | None]) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        places["(none)" if value is None else value].append(place)
    for value, some in places.items():
        yield Segment(name, value), np.array(some)


def _band(place: int) -> str:
    """The name of a band of amounts.

    >>> [_band(place) for place in (0, 1, len(BANDS))]
    ['under 10', '10 to 50', '1,000 and more']
    """
    if place == 0:
        return f"under {BANDS[0]:,g}"
    if place == len(BANDS):
        return f"{BANDS[-1]:,g} and more"
    return f"{BANDS[place - 1]:,g} to {BANDS[place]:,g}"
