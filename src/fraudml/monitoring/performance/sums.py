"""Decisions and reported frauds of the window as sums: by group of entities, kind and cell of age."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.events.source import Progress
from fraudml.monitoring.performance.delays import EDGES_US, Floats
from fraudml.monitoring.performance.reports import Project, unexplored
from fraudml.monitoring.rollouts.money import fraud_loss
from fraudml.monitoring.rollouts.resampling import GROUPS, SCORE_BINS, score_bin
from fraudml.monitoring.rollouts.rows import DECLINE, Rows

# Of reported frauds: those approved; those reviewed or declined, and of them those whose label can be counted on; what
# they cost; what declining them would have cost, had they been genuine.
MISSED, CAUGHT, JUDGED, LOSS, NO_FALSE_DECLINE = range(5)
# Of decisions: all; those reviewed or declined, and of them those whose label can be counted on; what declines would
# cost, were they all genuine; what reviews cost; declines without exploration, and the sum of their scores.
ALL, FLAGGED, FLAGGED_JUDGED, DECLINE_COST, REVIEW_COST, UNEXPLORED, UNEXPLORED_SCORE = range(7)
COHORTS = 7


class Window(NamedTuple):
    """Transactions of ``[since_us, until_us)`` as they are known at ``now_us``; of a model version, if one is named."""

    since_us: int
    until_us: int
    now_us: int
    model: str | None = None

    def has(self, event_time_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these times ``[n]`` are in it."""
        return np.asarray((event_time_us >= self.since_us) & (event_time_us < self.until_us))


class Cells:
    """Ranges of age in which the share of labels that are in hardly changes; each belongs to one cohort.

    ``edges_us``: int64 ``[cells + 1]``, from the youngest that is looked at to the oldest; ``cohorts_us``: those of
    them where a cohort begins, and the last.
    """

    def __init__(self, window: Window, from_us: int) -> None:
        """Those of ages from ``from_us`` on are looked at, or the oldest of all."""
        oldest_us = window.now_us - window.since_us
        cohorts = np.linspace(window.now_us - window.until_us, oldest_us, COHORTS + 1).astype(np.int64)
        self.cohorts_us = np.unique(np.append(np.clip(cohorts, from_us, oldest_us - 1), oldest_us))
        inside = EDGES_US[(self.cohorts_us[0] < EDGES_US) & (oldest_us > EDGES_US)]
        self.edges_us = np.union1d(inside, self.cohorts_us)

    def cohort(self) -> NDArray[np.int64]:
        """The cohort of each cell, int64 ``[cells]``."""
        return np.searchsorted(self.cohorts_us, self.edges_us[:-1], side="right") - 1

    def __len__(self) -> int:
        return len(self.edges_us) - 1

    def of(self, age_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The cell of each age ``[n]`` of the window."""
        return np.clip(np.searchsorted(self.edges_us, age_us, side="right") - 1, 0, len(self) - 1)


def passed(rows: Rows) -> NDArray[np.bool_]:
    """Which transactions were approved in the end, bool ``[n]``: also would-be declines that were let through."""
    return np.asarray((rows.level == 0) | (rows.explored & (rows.label_weight > 0)))


class FraudSums:
    """``sums``: float64 ``[GROUPS, kinds, cells, 5]`` of reported frauds; ``largest``: of a single one, ``[5]``."""

    def __init__(self, rows: Rows, age_us: NDArray[np.int64], cells: Cells, costs: Costs) -> None:
        weight = rows.label_weight
        flagged = rows.level > 0
        false_decline = costs.margin_share * rows.amount + costs.goodwill
        columns = [
            weight * ~flagged,
            weight * flagged,
            weight * (flagged & ~unexplored(rows)),
            weight * fraud_loss(rows, costs),
            weight * false_decline * (rows.level == DECLINE),
        ]
        values = np.column_stack(columns)
        self.group, self.kind, self.cell = rows.key % GROUPS, (~passed(rows)).astype(np.int64), cells.of(age_us)
        self.sums = np.zeros((GROUPS, 2, len(cells), len(columns)))
        np.add.at(self.sums, (self.group, self.kind, self.cell), values)
        self.largest = values.max(axis=0, initial=0.0)
        self._weight, self._bin, self._age_us = weight, score_bin(rows.score), age_us

    def by_score(self, share: Floats, from_us: float) -> Floats:
        """Frauds of ages from ``from_us`` on by bin of the score, float64 ``[GROUPS, bins]``; each counts one by the
        share ``[kinds, cells]`` of its like that is reported."""
        old = self._age_us >= from_us
        found = np.zeros((GROUPS, SCORE_BINS))
        counts = self._weight / share[self.kind, self.cell]
        np.add.at(found, (self.group[old], self._bin[old]), counts[old])
        return found


class DecisionSums:
    """``sums``: float64 ``[GROUPS, cells, 7]`` of decisions; ``scores``: of those of ages from ``mature_us`` on, by bin
    of the score, float64 ``[GROUPS, bins]``; ``kinds``: decisions by kind and cell; ``explored``: by cell; ``young``:
    how many are too young for the cells; ``first_us``: the time of the earliest transaction."""

    def __init__(self, cells: Cells, mature_us: float) -> None:
        self._cells, self._mature_us = cells, mature_us
        self.young, self.first_us = 0, np.iinfo(np.int64).max
        self.sums = np.zeros((GROUPS, len(cells), 7))
        self.scores = np.zeros((GROUPS, SCORE_BINS))
        self.kinds = np.zeros((2, len(cells)))
        self.explored = np.zeros(len(cells))
        self._ages = np.zeros(len(cells))

    def add(self, rows: Rows, age_us: NDArray[np.int64], costs: Costs) -> None:
        """Count decisions of the window."""
        self.first_us = int(rows.event_time_us.min(initial=self.first_us))
        old = age_us >= self._cells.edges_us[0]
        self.young += int((~old).sum())
        rows, age_us = rows.take(old), age_us[old]
        weight, flagged, alone = rows.label_weight, rows.level > 0, unexplored(rows)
        columns = [
            np.ones(len(rows)),
            weight * flagged,
            weight * (flagged & ~alone),
            weight * (costs.margin_share * rows.amount + costs.goodwill) * (rows.level == DECLINE),
            costs.review_cost * (rows.level == 1),
            alone,
            alone * np.nan_to_num(rows.score, nan=1.0),
        ]
        group, cell = rows.key % GROUPS, self._cells.of(age_us)
        np.add.at(self.sums, (group, cell), np.column_stack(columns))
        np.add.at(self.kinds, ((~passed(rows)).astype(np.int64), cell), 1)
        np.add.at(self.explored, cell, rows.explored)
        np.add.at(self._ages, cell, age_us)
        old = age_us >= self._mature_us
        np.add.at(self.scores, (group[old], score_bin(rows.score[old])), weight[old])

    @property
    def number(self) -> int:
        """All of them, young ones too."""
        return int(self.kinds.sum()) + self.young

    def age_us(self) -> Floats:
        """The mean age in each cell, float64 ``[cells]``; the middle of one without decisions."""
        edges = self._cells.edges_us
        count = self.kinds.sum(axis=0)
        return np.asarray(np.where(count > 0, self._ages / np.maximum(count, 1), (edges[:-1] + edges[1:]) / 2))


def count(
    batches: Iterable[pa.RecordBatch],
    project: Project,
    cells: Cells,
    window: Window,
    mature_us: float,
    progress: Progress,
) -> DecisionSums:
    """Read the decisions of the window, in any order."""
    found, seen = DecisionSums(cells, mature_us), 0
    for batch in batches:
        seen += batch.num_rows
        mine = batch
        if window.model is not None:
            mine = batch.filter(pc.equal(batch.column("model_version"), window.model))
        rows, _ = project.rows(mine)
        rows = rows.take(window.has(rows.event_time_us))
        found.add(rows, window.now_us - rows.event_time_us, project.costs)
        progress(seen, None)
    return found
