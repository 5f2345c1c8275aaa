"""The band of a fast model's score in which it is not sure, learnt from transactions neither model was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fraudml.training.families import base

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Band:
    """From ``low`` to ``high``, both included, the accurate model decides; the default is every score."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, margin: base.Margins) -> base.Labels:
        """Which fast margins, float ``[n]``, lie in the band: bool ``[n]``."""
        return (margin >= self.low) & (margin <= self.high)


def learn(
    fast: base.Margins, accurate: base.Margins, y: base.Labels, *, recall_loss: float, false_positive_rate: float
) -> Band:
    """The narrowest band that keeps the accurate model's recall, from calibrated margins and outcomes ``[n]``.

    The operating point is the accurate model's threshold that flags ``false_positive_rate`` of the genuine rows.
    Below ``low`` the fast model says genuine: of the frauds that the accurate model finds, it passes at most the
    share ``recall_loss``. Above ``high`` it says fraud: at most the same share of those rows is genuine. In between
    lies the threshold. Both shares are meant of transactions to come: the upper limits, at 95 % confidence, of what is
    seen here (Clopper and Pearson, Biometrika 26, 1934). Rows too few to show it leave that end of the band open.

    >>> margin = np.linspace(-9, 3, 4_000)
    >>> band = learn(margin, margin, margin > 0, recall_loss=0.005, false_positive_rate=0.01)
    >>> round(band.low, 3), round(band.high, 3)
    (-0.092, -0.002)
    """
    genuine = np.sort(accurate[~y])[::-1]
    threshold = float(genuine[int(false_positive_rate * len(genuine))])

    found = np.sort(fast[y & (accurate > threshold)])
    tolerable = int((_upper_limit(np.arange(len(found)), len(found)) <= recall_loss).sum())
    low = min(float(found[tolerable - 1]), threshold) if tolerable else -math.inf

    order = np.argsort(-fast, kind="stable")
    cuts = np.flatnonzero(np.diff(fast[order])) + 1  # rows above: equal scores stay together
    cuts = cuts[fast[order[cuts - 1]] > threshold]
    wrong = np.cumsum(~y[order], dtype=np.int64)[cuts - 1]
    sure = cuts[_upper_limit(wrong, cuts) <= recall_loss]
    high = float(fast[order[sure[-1]]]) if len(sure) else math.inf
    return Band(_halfway_down(fast, low), -_halfway_down(-fast, -high))


def _upper_limit(events: npt.NDArray[np.int64], trials: npt.NDArray[np.int64] | int) -> base.Margins:
    """The largest share that makes so few events among so many trials not unlikely."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(events + 1, trials - events, CONFIDENCE), np.float64)


def _halfway_down(margins: base.Margins, bound: float) -> float:
    """A bound that divides the margins alike and that rounding cannot tip: between it and the next lower margin."""
    below = margins[margins < bound]
    return (bound + float(below.max())) / 2 if len(below) and math.isfinite(bound) else bound
