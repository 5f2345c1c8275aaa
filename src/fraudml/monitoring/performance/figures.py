"""Figures with intervals: every one is a function of sums over groups of entities, which are drawn again."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.performance import delays
from fraudml.monitoring.performance.delays import Delays, Floats
from fraudml.monitoring.performance.results import Bounds, Declines, DeclinesKnown
from fraudml.monitoring.performance.sums import (
    ALL,
    CAUGHT,
    DECLINE_COST,
    FLAGGED,
    FLAGGED_JUDGED,
    JUDGED,
    LOSS,
    MISSED,
    NO_FALSE_DECLINE,
    REVIEW_COST,
    UNEXPLORED,
    UNEXPLORED_SCORE,
    DecisionSums,
    FraudSums,
)
from fraudml.monitoring.rollouts.resampling import Interval, Resampled, draw, unseen

LEAST_SHARE = 0.05  # younger transactions are left out: a report would stand for more than twenty
FLOOR = LEAST_SHARE / 2  # of a share that was learnt from other draws than the data
MATURE = 0.9
LABELLED = 0.8  # of old declines: then they get labels like anything else
NOTHING = Interval(0.0, 0.0, 0.0)


class Figures:
    """Frauds and decisions in the data and each resample, whose delays are learnt again each time.

    A reported fraud counts one by the share of its kind and age that is reported (Horvitz and Thompson 1952), so that
    those that are not in yet are counted, too.
    """

    def __init__(self, learnt: Delays, frauds: FraudSums, decisions: DecisionSums) -> None:
        self._drawn = draw(seed=0)
        shares = delays.at(learnt.shares(self._drawn), decisions.age_us())
        self.share = np.maximum(shares, FLOOR)  # [resamples, kinds, cells]
        self._reported = np.tensordot(self._drawn, frauds.sums, axes=1)  # [resamples, kinds, cells, sums]
        self._corrected = self._reported / self.share[..., None]
        self._decided = np.tensordot(self._drawn, decisions.sums, axes=1)  # [resamples, cells, sums]
        self._frauds, self._decisions = frauds, decisions

    def frauds(self, kind: int, cells: NDArray[np.bool_] | slice = slice(None), *, raw: bool = False) -> Resampled:
        """A sum over reported frauds; ``raw``: not corrected."""
        from_ = self._reported if raw else self._corrected
        return np.asarray(from_[:, :, cells, kind].sum(axis=(1, 2)))

    def decisions(self, kind: int, cells: NDArray[np.bool_] | slice = slice(None)) -> Resampled:
        """A sum over decisions."""
        return np.asarray(self._decided[:, cells, kind].sum(axis=1))

    def groups(self, *kinds: int, cells: NDArray[np.bool_] | slice = slice(None)) -> int:
        """Groups of entities with anything in one of these sums over frauds."""
        return int(np.count_nonzero(self._frauds.sums[:, :, cells][..., list(kinds)].sum(axis=(1, 2, 3))))

    def recall(self, cells: NDArray[np.bool_] | slice = slice(None), *, raw: bool = False) -> Resampled:
        """Frauds reviewed or declined, of all."""
        caught = self.frauds(CAUGHT, cells, raw=raw)
        return ratio(caught, caught + self.frauds(MISSED, cells, raw=raw))

    def precision(self, known: DeclinesKnown, *, raw: bool = False) -> Resampled:
        """Frauds of what was reviewed or declined; where declines are unknown, of what has a label to be expected."""
        if known is DeclinesKnown.unknown:
            return ratio(self.frauds(JUDGED, raw=raw), self.decisions(FLAGGED_JUDGED))
        return ratio(self.frauds(CAUGHT, raw=raw), self.decisions(FLAGGED))

    def confirmed(self, *, raw: bool = False) -> Resampled:
        """Frauds of all decisions."""
        return ratio(self.frauds(CAUGHT, raw=raw) + self.frauds(MISSED, raw=raw), self.decisions(ALL))

    def loss(self) -> Resampled:
        """What missed frauds cost; the largest one may be in the data by chance."""
        return np.asarray(self.frauds(LOSS) + unseen(len(self._drawn), LOSS) * self._frauds.largest[LOSS])

    def false_declines(self) -> Resampled:
        """What declined genuine transactions cost: of all declines, less those that are frauds."""
        return np.maximum(self.decisions(DECLINE_COST) - self.frauds(NO_FALSE_DECLINE), 0.0)

    def reviews(self) -> Resampled:
        """What reviews cost."""
        return self.decisions(REVIEW_COST)

    def by_kind(self) -> Floats:
        """Frauds of each kind, as estimated, float64 ``[2]``."""
        return np.asarray(self._corrected[0][..., [MISSED, CAUGHT]].sum(axis=(1, 2)))

    def decision_groups(self, kind: int) -> int:
        """Groups of entities with anything in a sum over decisions."""
        return int(np.count_nonzero(self._decisions.sums[:, :, kind].sum(axis=1)))

    def ranking(self, mature_us: float) -> tuple[Interval | None, Interval | None]:
        """ROC AUC and average precision of the scores of mature decisions, from bins of their log-odds."""
        by_bin = self._frauds.by_score(self.share[0], mature_us)
        frauds = (self._drawn @ by_bin)[:, ::-1]  # the highest score first
        genuine = np.maximum((self._drawn @ self._decisions.scores)[:, ::-1] - frauds, 0.0)
        found, wrong = frauds.cumsum(axis=1), genuine.cumsum(axis=1)
        above = (genuine * (found - frauds / 2)).sum(axis=1)  # of one bin: half of them
        roc_auc = ratio(above, found[:, -1] * wrong[:, -1])
        pr_auc = ratio((frauds * ratio(found, found + wrong, 0.0)).sum(axis=1), found[:, -1])
        groups = int(np.count_nonzero(by_bin.sum(axis=1)))
        return interval(roc_auc, groups), interval(pr_auc, groups)

    def declines(self, labelled: Floats, labelled_frauds: Floats, explored: Floats) -> Declines:
        """How declines are known. ``[cells]`` each: declines without exploration that have a label, those of them that
        are frauds, and declines under exploration."""
        alone = self._decided[0, :, UNEXPLORED]
        every = int(alone.sum() + explored.sum())
        old = self.share[0, 1] >= MATURE
        if not alone[old].any():
            old[:] = True
        told = int(labelled.sum())
        counts = Declines(DeclinesKnown.unknown, int(explored.sum()), told, unlabelled=max(int(alone.sum()) - told, 0))
        if not every:
            return Declines(DeclinesKnown.none)
        if not alone.any():
            return msgspec.structs.replace(counts, known=DeclinesKnown.explored)
        if labelled[old].sum() >= LABELLED * alone[old].sum():
            return msgspec.structs.replace(counts, known=DeclinesKnown.labelled)
        judged, caught, missed = (float(self.frauds(kind)[0]) for kind in (JUDGED, CAUGHT, MISSED))
        genuine = float(labelled.sum() - labelled_frauds.sum())
        ends = (caught, judged + float(self.decisions(UNEXPLORED_SCORE)[0]), judged + float(alone.sum()) - genuine)
        flagged = float(self.decisions(FLAGGED)[0])
        recall = Bounds(*(float(ratio(end, end + missed)) for end in ends))
        precision = Bounds(*(end / flagged for end in ends))
        return msgspec.structs.replace(counts, recall=recall, precision=precision)


def ratio(numerator: Floats | float, denominator: Floats | float, empty: float = np.nan) -> Resampled:
    """One by the other; ``empty`` where there is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(denominator) > 0, np.divide(numerator, denominator), empty)


def interval(resampled: Resampled, groups: int) -> Interval | None:
    """The figure with its interval; None where too few entities, or none of the resamples, say anything."""
    return Interval.of(resampled, groups) if np.isfinite(resampled[0]) else None
