"""What the decision log says of one experiment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import ARRIVAL, LABEL_ARRIVAL, DecisionLog
from fraudml.decisions.record import CHAMPION
from fraudml.models.rollout import Challenger, Experiment, Mode, Rollout
from fraudml.monitoring.rollouts.checks import Breach
from fraudml.monitoring.rollouts.comparison import compare
from fraudml.monitoring.rollouts.guard import Guard
from fraudml.monitoring.rollouts.results import Comparison
from fraudml.monitoring.rollouts.rows import Arms

CLOCKS_US = 60_000_000  # as far as the clocks of registry, services and operators may be apart
# An A/B test is there to compare what models do, so only what is wrong with any model ends it.
ENDS_AB = ("errors", "latency")


class Currency(NamedTuple):
    """What mistakes cost, and the decimals of the currency."""

    costs: Costs
    decimals: int


class Span(NamedTuple):
    """An experiment with the last revision of it, if it is over."""

    experiment: Experiment
    last_revision: int | None = None

    def arms(self, challenger: Challenger) -> Arms:
        """Which decisions compare a challenger with the champion."""
        experiment = self.experiment
        return Arms(CHAMPION, challenger.arm, experiment.entity or "", experiment.after_revision, self.last_revision)

    @property
    def after(self) -> int:
        """The arrival number before which it has no decisions."""
        return self.experiment.since_us - CLOCKS_US


def last_span(history: list[Rollout]) -> Span | None:
    """The experiment that is under way, else the last one; None when there was none."""
    if history and history[-1].experiment is not None:
        return Span(history[-1].experiment)
    ended = [rollout for rollout in history if rollout.experiment is not None]
    return Span(ended[-1].experiment, ended[-1].revision) if ended and ended[-1].experiment else None


class Evidence:
    """A guard for each challenger of an experiment, fed with what is new at each look."""

    def __init__(self, span: Span, currency: Currency) -> None:
        experiment = span.experiment
        if experiment.guardrails is None:
            raise ValueError("the experiment has no guardrails")
        self.salt = experiment.salt
        self._mode = experiment.mode
        self._after = self._labels_after = span.after
        costs, decimals = currency
        self.guards = {
            each.version: Guard(experiment.guardrails, span.arms(each), costs, decimals)
            for each in experiment.challengers
        }

    def look(self, log: DecisionLog, until: int) -> Breach | None:
        """Take in what has arrived up to ``until``; the first breach that ends the experiment."""
        for batch in _up_to(log.outcomes(self._after), ARRIVAL, until):
            self._after = batch.column(ARRIVAL)[-1].as_py()
            for guard in self.guards.values():
                guard.observe(batch)
        for batch in _up_to(log.outcomes(self._labels_after, labelled=True), LABEL_ARRIVAL, until):
            self._labels_after = batch.column(LABEL_ARRIVAL)[-1].as_py()
            for guard in self.guards.values():
                guard.observe_labels(batch)
        only = ENDS_AB if self._mode is Mode.ab else None
        found = [breach for guard in self.guards.values() if (breach := guard.breach(only)) is not None]
        return min(found, key=lambda breach: breach.arrival, default=None)


def report(log: DecisionLog, span: Span, currency: Currency, mature_before_us: int) -> dict[int, Comparison]:
    """Each challenger compared with the champion on mature labels, by version."""
    return {
        each.version: compare(
            log.outcomes(span.after),
            log.outcomes(span.after, labelled=True),
            span.arms(each),
            currency.costs,
            currency.decimals,
            mature_before_us=mature_before_us,
            name=f"Challenger {each.version}",
        )
        for each in span.experiment.challengers
    }


def _up_to(batches: Iterator[pa.RecordBatch], column: str, until: int) -> Iterator[pa.RecordBatch]:
    """The rows of batches in rising order of a column up to a number; none that are empty."""
    for batch in batches:
        numbers = batch.column(column).to_numpy(zero_copy_only=False)
        count = int(numbers.searchsorted(until, side="right"))
        if count:
            yield batch.slice(0, count)
        if count < batch.num_rows:
            return
