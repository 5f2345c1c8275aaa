"""What the decision log says of one experiment."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import ARRIVAL, LABEL_ARRIVAL, OUTCOMES, DecisionLog
from fraudml.decisions.record import CHAMPION
from fraudml.models.rollout import Challenger, Experiment, Mode, Rollout
from fraudml.monitoring.rollouts.checks import Breach
from fraudml.monitoring.rollouts.comparison import compare
from fraudml.monitoring.rollouts.guard import Guard
from fraudml.monitoring.rollouts.kept import Kept, Kinds
from fraudml.monitoring.rollouts.results import Comparison
from fraudml.monitoring.rollouts.rows import Arms, read_all

CLOCKS_US = 60_000_000  # as far as the clocks of registry, services and operators may be apart
BATCH = 5_000  # rows between two looks at what they have shown: some 50 ms
_NONE = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in OUTCOMES], schema=OUTCOMES)
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


class Evidence(Kept):
    """A guard for each challenger of an experiment, fed with what is new at each look.

    Decisions and label reports are counted in order of arrival of both, so it is a function of the log alone: how far
    a look went, or whether the state was kept and gone on from in between, changes nothing.
    """

    KEPT: ClassVar[Kinds] = {"_after": int, "_labels_after": int}

    def __init__(self, span: Span, currency: Currency) -> None:
        experiment = span.experiment
        if experiment.guardrails is None:
            raise ValueError("the experiment has no guardrails")
        self.salt = experiment.salt
        self._mode = experiment.mode
        self._after = self._labels_after = span.after
        self._costs, self._decimals = currency
        self._arms = span.arms(experiment.challengers[0])
        versions = sorted(each.version for each in experiment.challengers)
        # shares are not here: they may change, and what they were is in the rows
        facts = (replace(self._arms, challenger=""), experiment.since_us, experiment.salt, experiment.mode, versions)
        self.identity = msgspec.json.encode((*facts, experiment.guardrails, currency)).decode()
        self.guards = {
            each.version: Guard(experiment.guardrails, span.arms(each), *currency) for each in experiment.challengers
        }

    @property
    def reached(self) -> int:
        """The arrival number of the last row that was counted."""
        return max(self._after, self._labels_after)

    def advance(self, log: DecisionLog, until: int) -> Generator[int]:
        """Take in what has arrived up to ``until``; gives :attr:`reached` after each batch, and may be left there."""
        streams = (
            _Stream(log.outcomes(self._after, BATCH), ARRIVAL, until),
            _Stream(log.outcomes(self._labels_after, BATCH, labelled=True), LABEL_ARRIVAL, until),
        )
        with closing(streams[0]), closing(streams[1]):
            while any(stream.rows.num_rows for stream in streams):
                bound = min(stream.last for stream in streams)
                decisions, labels = (stream.take(bound) for stream in streams)
                read = [read_all(batch, self._arms, self._costs, self._decimals) for batch in (decisions, labels)]
                for guard in self.guards.values():
                    guard.advance(*read)
                if decisions.num_rows:
                    self._after = decisions.column(ARRIVAL)[-1].as_py()
                if labels.num_rows:
                    self._labels_after = labels.column(LABEL_ARRIVAL)[-1].as_py()
                yield self.reached

    def breach(self) -> Breach | None:
        """The first breach so far that ends the experiment."""
        only = ENDS_AB if self._mode is Mode.ab else None
        found = [breach for guard in self.guards.values() if (breach := guard.breach(only)) is not None]
        return min(found, key=lambda breach: breach.arrival, default=None)

    def kept(self) -> dict[str, Any]:
        """The places in the log and the state of each guard."""
        return {**super().kept(), "guards": {str(version): guard.kept() for version, guard in self.guards.items()}}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        super().restore(kept)
        for version, guard in self.guards.items():
            guard.restore(kept["guards"][str(version)])


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


class _Stream:
    """Batches in rising order of a column up to a number, taken in parts.

    ``rows`` is empty at the end. ``last``: what a part may reach without rows being missed; at the end any number.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], column: str, until: int) -> None:
        self._batches = batches
        self._column, self._until = column, until
        self.rows, self._numbers, self.last = self._read()

    def take(self, bound: int) -> pa.RecordBatch:
        """The rows up to a number that is not above ``last``."""
        count = int(self._numbers.searchsorted(bound, side="right"))
        taken, self.rows, self._numbers = self.rows.slice(0, count), self.rows.slice(count), self._numbers[count:]
        if not self.rows.num_rows and count:
            self.rows, self._numbers, self.last = self._read()
        return taken

    def close(self) -> None:
        """Let go of the cursor."""
        if isinstance(self._batches, Generator):
            self._batches.close()

    def _read(self) -> tuple[pa.RecordBatch, NDArray[np.int64], int]:
        """The next rows, their numbers, and ``last``."""
        rows = next(self._batches, _NONE)
        numbers = rows.column(self._column).to_numpy(zero_copy_only=False)
        count = int(numbers.searchsorted(self._until, side="right"))
        return rows.slice(0, count), numbers[:count], int(numbers[count - 1]) if count else self._until
