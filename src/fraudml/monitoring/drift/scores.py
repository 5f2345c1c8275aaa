"""Whether the champion's scores are still distributed as when it began to decide.

The population stability index (Siddiqi, *Credit Risk Scorecards*, 2006; its distribution: Yurdakul 2018) of the scores
of its latest decisions on ten bins of equal count of its first ones. Both are those of a period of the same length, a
whole number of weeks best: traffic differs by hour and day, and the first thousand decisions of one night would look
unlike anything. Without any change it is on average about 9 times (1 / first + 1 / latest decisions), 0.02 for a
thousand of each. By Siddiqi's rule of thumb less than 0.1 is no change and more than 0.25 a large one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.log import ARRIVAL, DecisionLog
from fraudml.decisions.record import TOUCHES_SCORE
from fraudml.models.rollout import Rollout
from fraudml.monitoring.drift.index import psi

FEWEST = 1_000  # decisions of each period
CLOCKS_US = 60_000_000  # as far as the clocks of the registry and of services may be apart

Scores = NDArray[np.float64]


class Drift(msgspec.Struct, frozen=True):
    """``psi`` of the ``latest`` decisions against the ``first`` (how many there are of each); ``None`` with fewer than
    :data:`FEWEST` of either, or where the two periods would overlap."""

    psi: float | None
    first: int
    latest: int

    @property
    def words(self) -> str:
        """What was found, in one line."""
        if self.psi is None:
            return (
                f"it cannot be told whether the champion's scores have drifted: it has {self.first:,} decisions of its "
                f"first period and {self.latest:,} of a later one, and {FEWEST:,} of each are needed"
            )
        return f"the champion's scores have a population stability index of {self.psi:.3f} against its first ones"


def score_drift(log: DecisionLog, history: Iterable[Rollout], version: int, window_us: int) -> Drift:
    """Of the decisions that a version made in the first ``window_us`` it decided in, and in the last one of the log.

    ``history``: the revisions of the rollout document, the earliest of which to name the version says from where on to
    read. Decisions made without the online store are left out.
    """
    named = next((entry for entry in history if version in entry.versions), None)
    after = 0 if named is None else _microseconds(named.change.at) - CLOCKS_US
    first: list[Scores] = []
    end = None
    for arrival, scores in _scores(log, version, after):
        end = int(arrival[0]) + window_us if end is None else end
        within = arrival < end
        first.append(scores[within])
        if not within.all():
            break
    start = log.last_arrival(labels=False) - window_us
    if end is None or start < end:
        return Drift(None, sum(map(len, first)), 0)
    latest = [scores for _, scores in _scores(log, version, start)]
    before, now = np.concatenate(first), np.concatenate([np.empty(0), *latest])
    enough = min(len(before), len(now)) >= FEWEST
    return Drift(psi(before, now) if enough else None, len(before), len(now))


def _scores(log: DecisionLog, version: int, after: int) -> Iterator[tuple[NDArray[np.int64], Scores]]:
    """Arrival numbers and scores of the decisions of a version, in order; batches without one are left out."""
    for batch in log.outcomes(after):
        mine = pc.and_(pc.equal(batch.column("model_version"), str(version)), pc.is_valid(batch.column("score")))
        for failure in TOUCHES_SCORE:
            mine = pc.and_(mine, pc.invert(pc.match_substring(batch.column("degraded"), f'"{failure}"')))
        kept = batch.filter(pc.fill_null(mine, fill_value=False))
        if kept.num_rows:
            yield kept.column(ARRIVAL).to_numpy(), kept.column("score").to_numpy()


def _microseconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1_000_000)
