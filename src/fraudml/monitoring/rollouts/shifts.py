"""The checks of what the challenger answers before labels are known: its scores and its actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.record import Action
from fraudml.monitoring.rollouts.checks import Breach, CheckStatus, figure, percent
from fraudml.monitoring.rollouts.kept import Kept, Kinds
from fraudml.monitoring.rollouts.looks import Looks, noncentral_chi2_quantile, normal_quantile
from fraudml.monitoring.rollouts.mix import Mix
from fraudml.monitoring.rollouts.rows import LEVELS, Rows

BINS = 10
WARM_UP = 200  # the champion's first scores, whose quantiles are the edges of the bins
MOST_HELD = 20_000  # rows that wait for the edges; more come only where the champion has next to no share


class ScoreCheck(Kept):
    """Population stability index of the challenger's scores on bins of the champion's, against ``limit``.

    PSI is close to a chi-square over its sample size (Yurdakul 2018); at a true PSI of ``limit`` to a non-central one,
    whose upper quantile it has to exceed: that is a lower confidence bound above the limit.
    """

    KEPT: ClassVar[Kinds] = {
        "breach": Breach | None,
        "_looks": None,
        "_mix": None,
        "_edges": np.ndarray | None,
        "_waiting": list[Rows],
        "_evidence": float,
    }

    def __init__(self, limit: float, alpha: float, min_decisions: int) -> None:
        self.breach: Breach | None = None
        self._limit = limit
        self._looks = Looks(min_decisions, alpha)
        self._mix = Mix(BINS)
        self._edges: NDArray[np.float64] | None = None
        self._waiting: list[Rows] = []
        self._evidence = 0.0

    def observe(self, rows: Rows) -> None:
        """Count decisions that have a score."""
        if self._edges is None:
            rows = self._warm_up(rows)
        for part, at_look in until_looks(rows, self._mix, self._looks):
            self._count(part)
            if at_look:
                self._judge(int(part.arrival[-1]))

    def status(self) -> CheckStatus:
        """The index of all scores so far."""
        psi, *_ = self._psi()
        return CheckStatus(
            name="scores",
            champion=0.0 if self._edges is not None else None,
            challenger=figure(psi),
            limit=self._limit,
            n=int(self._mix.rows[1]),
            evidence=self._evidence,
            breached=self._evidence >= 1,
            words="the scores are not compared yet"
            if math.isnan(psi)
            else f"the challenger's scores have a population stability index of {psi:.2f} against the champion's; "
            f"{self._limit:g} is tolerated",
        )

    def _warm_up(self, rows: Rows) -> Rows:
        """Hold rows until the champion's first scores give the edges; returns those that come after."""
        have = sum(int((~part.challenger).sum()) for part in self._waiting)
        held = sum(len(part) for part in self._waiting)
        place = np.flatnonzero(~rows.challenger)
        done = have + len(place) >= WARM_UP
        stop = int(place[WARM_UP - have - 1]) + 1 if done else len(rows)
        first, rest = rows.take(slice(None, stop)), rows.take(slice(stop, None))
        kept = (~first.challenger) | (held + np.arange(len(first)) < MOST_HELD)
        self._waiting = [Rows.concatenate([*self._waiting, first.take(kept)])]  # one: it is kept however rows came
        if done:
            start = self._waiting.pop()
            inner = np.quantile(start.score[~start.challenger], np.linspace(0, 1, BINS + 1)[1:-1])
            self._edges = np.unique(inner)
            self._count(start)
            if self._mix.rows[1] >= self._looks.size:
                self._judge(int(start.arrival[-1]))
        return rest

    def _count(self, rows: Rows) -> None:
        bins = np.searchsorted(self._edges if self._edges is not None else [], rows.score)
        self._mix.add(rows.challenger, rows.key, bins, 1 / rows.share)

    def _psi(self) -> tuple[float, float, int]:
        """The index, the sample size that its distribution scales with, and the number of bins."""
        bins = 1 if self._edges is None else len(self._edges) + 1
        sizes = self._mix.effective()
        if bins == 1 or not sizes.all():
            return math.nan, 0.0, bins
        counts = self._mix.shares()[:, :bins] * sizes[:, None] + 0.5  # an empty bin is not an infinite shift
        champion, challenger = counts / counts.sum(axis=1, keepdims=True)
        psi = float(((challenger - champion) * np.log(challenger / champion)).sum())
        return psi, float(1 / (1 / sizes).sum()), bins

    def _judge(self, arrival: int) -> None:
        alpha = self._looks.spend(int(self._mix.rows[1]))
        psi, size, bins = self._psi()
        if self.breach is not None or math.isnan(psi):
            return
        self._evidence = min(1.0, psi * size / noncentral_chi2_quantile(alpha, bins - 1, self._limit * size))
        if self._evidence >= 1:
            status = self.status()
            self.breach = Breach("scores", arrival, f"{status.words}.", status)


class ActionCheck(Kept):
    """Shares of declines and of reviews: each at most ``limits`` away from the champion's.

    At each look, the signed root of the likelihood ratio against the nearest pair of rates within the limit, which is
    close to normal far into the tails (Barndorff-Nielsen and Cox 1994), with a continuity correction.
    """

    KEPT: ClassVar[Kinds] = {"breach": Breach | None, "_looks": None, "_mix": None, "_evidence": dict[Action, float]}

    def __init__(self, limits: dict[Action, float], alpha: float, min_decisions: int) -> None:
        self.breach: Breach | None = None
        self._limits = limits
        self._looks = Looks(min_decisions, alpha / len(limits))
        self._mix = Mix(len(LEVELS))
        self._evidence = dict.fromkeys(limits, 0.0)

    def observe(self, rows: Rows) -> None:
        """Count decisions that have a score."""
        for part, at_look in until_looks(rows, self._mix, self._looks):
            self._mix.add(part.challenger, part.key, part.level.astype(np.int64), 1 / part.share)
            if at_look:
                self._judge(int(part.arrival[-1]))

    def statuses(self) -> list[CheckStatus]:
        """The shares of each action so far."""
        return [self._status(action) for action in self._limits]

    def _status(self, action: Action) -> CheckStatus:
        champion, challenger = self._mix.shares()[:, LEVELS[action.value]]
        limit = self._limits[action]
        return CheckStatus(
            name=f"{action.value}_rate",
            champion=figure(champion),
            challenger=figure(challenger),
            limit=limit,
            n=int(self._mix.rows[1]),
            evidence=self._evidence[action],
            breached=self._evidence[action] >= 1,
            words=f"the challenger's share of {action.value} is {percent(challenger)}, the champion's "
            f"{percent(champion)}; a difference of {100 * limit:g} points is tolerated",
        )

    def _judge(self, arrival: int) -> None:
        need = normal_quantile(self._looks.spend(int(self._mix.rows[1])))
        sizes = self._mix.effective()
        if self.breach is not None or not sizes.all():
            return
        for action, limit in self._limits.items():
            champion, challenger = self._mix.shares()[:, LEVELS[action.value]]
            root = shift_root(float(champion), float(challenger), sizes, limit)
            self._evidence[action] = min(1.0, root / need)
            if self._evidence[action] >= 1:
                status = self._status(action)
                self.breach = Breach(status.name, arrival, f"{status.words}.", status)
                return


def shift_root(champion: float, challenger: float, sizes: NDArray[np.float64], limit: float) -> float:
    """The signed root of the likelihood ratio against ``|challenger - champion| <= limit``; 0 within the limit.

    >>> round(shift_root(0.01, 0.01, np.array([1000.0, 100.0]), 0.02), 1)
    0.0
    >>> round(shift_root(0.01, 0.30, np.array([1000.0, 100.0]), 0.02), 1)
    8.9
    """
    if challenger < champion:  # the same question about the other outcome
        champion, challenger = 1 - champion, 1 - challenger
    challenger -= 0.5 / float(sizes[1])  # continuity: counts are whole
    if challenger - champion <= limit:
        return 0.0
    low, high = champion, challenger - limit  # the nearest pair within the limit lies between

    def distance(rate: float) -> float:
        return float(sizes[0]) * _divergence(champion, rate) + float(sizes[1]) * _divergence(challenger, rate + limit)

    for _ in range(60):  # convex: golden-section search would save nothing that matters
        third = (high - low) / 3
        if distance(low + third) < distance(high - third):
            high -= third
        else:
            low += third
    return math.sqrt(2 * distance((low + high) / 2))


def until_looks(rows: Rows, mix: Mix, looks: Looks) -> Iterator[tuple[Rows, bool]]:
    """The rows in parts, cut where a look at ``mix`` is due; with each, whether it is."""
    place = np.flatnonzero(rows.challenger)
    start = used = 0
    while start < len(rows):
        due = used + max(1, looks.size - int(mix.rows[1])) - 1
        at_look = due < len(place)
        stop = int(place[due]) + 1 if at_look else len(rows)
        used = due + 1
        yield rows.take(slice(start, stop)), at_look
        start = stop


def _divergence(seen: float, rate: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli rates."""
    rate = min(max(rate, 1e-12), 1 - 1e-12)
    parts = ((seen, rate), (1 - seen, 1 - rate))
    return sum(p * math.log(p / q) for p, q in parts if p > 0)
