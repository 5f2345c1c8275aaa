"""Label reports of the log: the latest verdict about each transaction, and since when it is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.log import LABEL_ARRIVAL, OUTCOMES
from fraudml.decisions.record import CHAMPION
from fraudml.events.schema import KNOWN_AT
from fraudml.events.source import Progress
from fraudml.monitoring.performance.results import Feed
from fraudml.monitoring.rollouts.rows import DECLINE, Arms, Rows, read_all

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
BACKLOG_US = 7 * DAY_US  # what arrives later was known all along, and sent when somebody got round to it
SKEW_US = 60_000_000  # as far as clocks may be apart
FEWEST_REPORTS = 20  # below, nothing is said of delays or of the feed
SILENCE = 7.0  # reports expected when there is none: one in a thousand, exp(-7)
LONGER = 2.0  # than the longest silence before: a nightly file, a weekend
_NOTHING = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in OUTCOMES], schema=OUTCOMES)


class Project(NamedTuple):
    """Whose log it is: the entity whose transactions belong together, what mistakes cost, decimals of the currency."""

    entity: str
    costs: Costs
    decimals: int

    def rows(self, batch: pa.RecordBatch) -> tuple[Rows, pa.Array]:
        """All rows of a batch, whatever experiment they were in, and the ids of their transactions."""
        everything = Arms(CHAMPION, "", self.entity, after_revision=-2)  # -1: in no experiment
        found = read_all(batch, everything, self.costs, self.decimals)
        return found.rows, found.ids


class Reported(NamedTuple):
    """Transactions ``[n]`` with a label that matters: frauds, and declines without exploration. ``arrival`` of the rows
    is when the label counts as known; ``of_model``: decided by the model in question."""

    rows: Rows
    of_model: NDArray[np.bool_]
    feed: Feed


def read(
    batches: Iterable[pa.RecordBatch],
    project: Project,
    now_us: int,
    history_us: int,
    model: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Reported:
    """Read reports in order of arrival, with their decisions.

    A label is known when its report arrives: not before, whatever ``known_at`` says. Only a backlog, sent more than a
    week late, counts from ``known_at`` on: its delay is that of a file, not of fraud. Memory holds the reported frauds
    and labelled declines of ``history_us`` before ``now_us``, some 200 bytes each, and no other rows.
    """
    kept: list[Rows] = [project.rows(_NOTHING)[0]]
    ids: list[str] = []
    of_model: list[bool] = []
    frauds: set[str] = set()
    arrivals = _Arrivals()
    newest, reports, impossible, backlog, ahead = 0, 0, 0, 0, 0
    for batch in batches:
        arrival = batch.column(LABEL_ARRIVAL).to_numpy(zero_copy_only=False)
        known_at = batch.column(KNOWN_AT).to_numpy(zero_copy_only=False)
        rows, batch_ids = project.rows(batch)
        late = arrival - known_at > BACKLOG_US
        rows = replace(rows, arrival=np.where(late, known_at, arrival))
        here = (arrival <= now_us) & (rows.event_time_us <= now_us)
        mine = here & (rows.event_time_us >= now_us - history_us)
        names = [str(name) for name in batch_ids.to_pylist()]
        fraud = rows.fraud == 1
        frauds.update(name for name, is_fraud in zip(names, fraud & mine, strict=True) if is_fraud)
        # a genuine verdict matters where it takes back a fraud, or says that a decline was wrong
        matters = fraud | unexplored(rows) | np.array([name in frauds for name in names], np.bool_)
        which = np.flatnonzero(mine & matters)
        kept.append(rows.take(which))
        ids += [names[place] for place in which]
        of_model += [model in (None, version) for version in batch.column("model_version").take(which).to_pylist()]
        arrivals.add(arrival[mine & fraud])
        newest = max(newest, int(arrival[here].max(initial=0)))
        reports += int(here.sum())
        impossible += int((here & (rows.arrival < rows.event_time_us - SKEW_US)).sum())
        backlog += int((here & late).sum())
        ahead += int((~here).sum())
        progress(reports + ahead, None)
    last = np.array([*{name: place for place, name in enumerate(ids)}.values()], np.int64)  # of each transaction
    rows = Rows.concatenate(kept).take(last)
    counted = Feed(newest or None, reports=reports, impossible=impossible, backlog=backlog, ahead=ahead)
    feed = arrivals.judge(counted, rows.arrival[rows.fraud == 1], now_us)
    return Reported(rows, np.array(of_model, np.bool_)[last], feed)


def unexplored(rows: Rows) -> NDArray[np.bool_]:
    """Declines whose label nobody can count on, bool ``[n]``."""
    return np.asarray((rows.level == DECLINE) & ~rows.explored)


class _Arrivals:
    """When reports of fraud arrived, in order: the first, the last, and the longest time without one."""

    def __init__(self) -> None:
        self._first = self._last = 0
        self._longest = 0

    def add(self, arrival: NDArray[np.int64]) -> None:
        if not len(arrival):
            return
        self._first = self._first or int(arrival[0])
        gaps = np.diff(arrival, prepend=self._last or arrival[0])
        self._longest = max(self._longest, int(gaps.max()))
        self._last = int(arrival[-1])

    def judge(self, feed: Feed, reported_us: NDArray[np.int64], now_us: int) -> Feed:
        """What was to be expected since the last one, at the times ``[n]`` when frauds became known, and whether there
        should have been one by now.

        Two things must hold: that many missing is no chance, and no silence before was half as long. Reports that
        come in a file every night are silent all day.
        """
        if not self._last:
            return feed
        known = np.sort(reported_us)
        last_day = int((known > now_us - DAY_US).sum())
        told = msgspec.structs.replace(feed, newest_fraud_us=self._last, last_day=last_day)
        if len(known) < FEWEST_REPORTS:
            return told
        reach = min(28 * DAY_US, self._last - int(known[0]))
        rate = (known > self._last - reach).sum() / max(reach, 1)
        silence = now_us - self._last
        watched = self._last - self._first >= min(silence, DAY_US)  # one file of history is no feed
        expected = float(rate * silence)
        stopped = bool(watched and expected >= SILENCE and silence > LONGER * self._longest)
        return msgspec.structs.replace(told, expected=expected, last_day_expected=float(rate * DAY_US), stopped=stopped)
