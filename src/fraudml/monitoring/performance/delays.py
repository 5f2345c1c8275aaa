"""How long frauds take to be reported, learnt from those that are reported: the slow ones are missing among them.

A fraud of age ``a`` is seen only if its delay is at most ``a`` (right truncation). The product-limit estimator in
reverse time (Lagakos, Barraj and De Gruttola 1988; the chain ladder of insurers) needs nothing but the reported ones:

    share reported by t = product over later times s of (1 - reported at s / reported by s, both of those seen at s)

On a grid of ages, of whose frauds only those count that are old enough to be seen for the whole of a step, it has no
bias by the grid. What it cannot see are delays longer than the oldest transaction: the share is of the delays up to
there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.rollouts.resampling import GROUPS

Floats = NDArray[np.float64]
KINDS = ("passed", "checked")  # approved; reviewed or declined: what somebody looks at is reported sooner
FEWEST_FRAUDS = 20
# From a minute to 400 days, each a ninth longer than the one before.
EDGES_US = np.unique(np.geomspace(60e6, 400 * 86_400e6, 150).astype(np.int64))
_STEPS = len(EDGES_US)
_GRID_US = np.concatenate([[0], EDGES_US])


class Delays(NamedTuple):
    """Sums that the estimator needs, by group of entities, kind and step: float64 ``[GROUPS, 2, steps]`` each.

    ``came``: frauds reported in a step; ``seen``: those reported by its end; both of those older than its end.
    """

    came: Floats
    seen: Floats

    def shares(self, drawn: Floats) -> Floats:
        """The share reported by each age of the grid, float64 ``[resamples, 2, 1 + steps]``, 0 at age 0.

        From where on fewer than :data:`FEWEST_FRAUDS` are old enough nothing is said: delays that long count as none.
        """
        came, seen = (np.tensordot(drawn, each, axes=1) for each in self)
        came = np.where(self.reach(), came, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            kept = 1 - np.where(seen > 0, came / seen, 0.0)
        later = np.cumprod(kept[..., ::-1], axis=-1)[..., ::-1]  # of this step and those after it
        by_end = np.concatenate([later[..., 1:], np.ones_like(later[..., :1])], axis=-1)
        return np.concatenate([np.zeros_like(by_end[..., :1]), by_end], axis=-1)

    def reach(self) -> NDArray[np.bool_]:
        """Which steps are not beyond the last that enough frauds are old enough for, bool ``[2, steps]``."""
        enough = self.seen.sum(axis=0) >= FEWEST_FRAUDS
        return np.asarray(np.logical_or.accumulate(enough[:, ::-1], axis=1)[:, ::-1])

    def seen_up_to_us(self, kind: int) -> int:
        """The longest delay of that kind that could be seen; 0 where too few frauds are reported to learn from."""
        steps = np.flatnonzero(self.reach()[kind])
        return int(EDGES_US[steps[-1]]) if len(steps) else 0


def learn(
    group: NDArray[np.int64], kind: NDArray[np.int64], delay_us: NDArray[np.int64], age_us: NDArray[np.int64]
) -> Delays:
    """From the reported frauds ``[n]``: their group of entities, kind, delay, and age now."""
    step = np.searchsorted(EDGES_US, np.maximum(delay_us, 0))
    oldest = np.searchsorted(EDGES_US, age_us, side="right") - 1  # the last step that is over
    here = (step <= oldest) & (step < _STEPS)
    group, kind, step, oldest = (each[here] for each in (group, kind, step, oldest))
    came, seen = np.zeros((GROUPS, 2, _STEPS)), np.zeros((GROUPS, 2, _STEPS + 1))
    np.add.at(came, (group, kind, step), 1)
    np.add.at(seen, (group, kind, step), 1)
    np.add.at(seen, (group, kind, oldest + 1), -1)
    return Delays(came, np.cumsum(seen, axis=-1)[..., :-1])


def at(shares: Floats, age_us: Floats) -> Floats:
    """The shares ``[..., 1 + steps]`` at other ages ``[m]``, between those of the grid in a straight line."""
    place = np.clip(np.searchsorted(_GRID_US, age_us, side="right") - 1, 0, _STEPS - 1)
    part = np.clip((age_us - _GRID_US[place]) / np.diff(_GRID_US)[place], 0.0, 1.0)
    return np.asarray(shares[..., place] + part * (shares[..., place + 1] - shares[..., place]))


def quantile(share: Floats, level: float) -> float:
    """The age in seconds by which that share ``[1 + steps]`` is reported.

    >>> round(quantile(np.linspace(0, 1, 151), 1 / 150))
    60
    """
    return float(np.interp(level, share, _GRID_US)) / 1e6
