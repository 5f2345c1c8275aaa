"""What the arms' mistakes cost, as labels mature, and the check on it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.monitoring.rollouts.checks import Breach, CheckStatus, figure
from fraudml.monitoring.rollouts.kept import Kept, Kinds
from fraudml.monitoring.rollouts.looks import Looks, heavy_quantile
from fraudml.monitoring.rollouts.mix import GROUPS
from fraudml.monitoring.rollouts.rows import DECLINE, Rows

WARM_UP = 500  # the first amounts, which say what a usual amount is
CLIP_QUANTILE = 0.95


def fraud_loss(rows: Rows, costs: Costs) -> NDArray[np.float64]:
    """What fraud cost that was not declined, float64 ``[n]`` in currency units; a review finds its share of it."""
    loss = costs.fraud_loss_share * rows.amount + costs.chargeback_fee
    missed = np.array([1.0, 1 - costs.review_finds, 0.0])[rows.level]
    return np.where(rows.fraud == 1, loss * missed, 0.0)


def false_decline_cost(rows: Rows, costs: Costs) -> NDArray[np.float64]:
    """What declined genuine transactions cost, float64 ``[n]`` in currency units: known where a label is."""
    return np.where((rows.fraud == 0) & (rows.level == DECLINE), costs.margin_share * rows.amount + costs.goodwill, 0.0)


class CostCheck(Kept):
    """Missed fraud and false declines per 1,000 transactions: at most ``limit`` more than the champion's.

    Each labelled row counts ``1 / share`` of its arm (Horvitz and Thompson 1952), and an explored decline
    ``1 / explore`` besides, so the two sums estimate what all traffic would have cost under each arm; they need no
    number of labelled transactions, which depends on the actions. The variance of their difference is that of random
    groups of entities, its tail corrected for jumps: sums of few large losses are not normal. Amounts are clipped at
    the 95 % quantile of the first ones, so no single huge loss decides.
    """

    KEPT: ClassVar[Kinds] = {
        "breach": Breach | None,
        "_looks": None,
        "_amounts": np.ndarray,
        "_cap": float | None,
        "_waiting": list[Rows],
        "_transactions": np.ndarray,
        "_sums": np.ndarray,
        "_largest": np.ndarray,
        "_costly": int,
        "_evidence": float,
    }

    def __init__(self, costs: Costs, limit: float, alpha: float, min_costly: int) -> None:
        self.breach: Breach | None = None
        self._costs, self._limit = costs, limit
        self._looks = Looks(min_costly, alpha, growth=1.5)  # months, not minutes: fewer looks, each worth more
        self._amounts = np.zeros(0)
        self._cap: float | None = None
        self._waiting: list[Rows] = []
        self._transactions = np.zeros(2)  # of all traffic, as each arm's decisions estimate them
        self._sums = np.zeros((2, GROUPS))
        self._largest = np.zeros(2)  # cost of a row; weight of the challenger's rows
        self._costly = 0
        self._evidence = 0.0

    def advance(self, rows: Rows, labels: Rows) -> None:
        """Count decisions and the label reports of the same stretch of the log, in order of arrival.

        So a look at the costs knows the decisions that were there when its last label came, neither more nor fewer,
        whenever and in however many pieces the log is read.
        """
        costly = labels.arrival[self._cost(labels) != 0]  # no other label changes anything
        start = start_label = 0
        for stop in np.unique(np.searchsorted(rows.arrival, costly)):
            last = stop == len(rows)
            stop_label = len(labels) if last else int(np.searchsorted(labels.arrival, rows.arrival[stop]))
            self.observe(rows.take(slice(start, stop)))
            self.observe_labels(labels.take(slice(start_label, stop_label)))
            start, start_label = stop, stop_label
        self.observe(rows.take(slice(start, None)))

    def observe(self, rows: Rows) -> None:
        """Count decisions."""
        if self._cap is None:
            rows = self._warm_up(rows)
        np.add.at(self._transactions, rows.challenger.astype(np.int64), 1 / rows.share)

    def observe_labels(self, rows: Rows) -> None:
        """Count label reports; those of the decisions of the warm-up wait for its end."""
        if self._cap is None:
            self._waiting = [Rows.concatenate([*self._waiting, rows.take(self._cost(rows) != 0)])]
            return
        rows = rows.clipped(self._cap)
        cost = self._cost(rows)
        arm = rows.challenger.astype(np.int64)
        for place in np.flatnonzero(cost):
            self._sums[arm[place], rows.key[place] % GROUPS] += cost[place] / rows.share[place]
            weight = 1 / rows.share[place] if arm[place] else 1.0
            self._largest = np.maximum(self._largest, (cost[place], weight))
            self._costly += 1
            if self._costly >= self._looks.size:
                self._judge(int(rows.arrival[place]))

    def status(self) -> CheckStatus:
        """The cost of each arm so far, per 1,000 transactions."""
        with np.errstate(invalid="ignore", divide="ignore"):
            champion, challenger = 1_000 * self._sums.sum(axis=1) / self._transactions
        known = self._costly > 0
        return CheckStatus(
            name="cost",
            champion=figure(champion) if known else None,
            challenger=figure(challenger) if known else None,
            limit=self._limit,
            n=self._costly,
            evidence=self._evidence,
            breached=self._evidence >= 1,
            words=f"missed fraud and false declines cost the challenger {challenger:.2f} per 1,000 transactions, the "
            f"champion {champion:.2f}; {self._limit:g} more is tolerated"
            if known
            else "no label has told of a loss yet",
        )

    def _warm_up(self, rows: Rows) -> Rows:
        """Count the first decisions, and with the last of them the labels that wait; returns those that come after."""
        first, rest = (rows.take(part) for part in np.split(np.arange(len(rows)), [WARM_UP - len(self._amounts)]))
        np.add.at(self._transactions, first.challenger.astype(np.int64), 1 / first.share)
        self._amounts = np.concatenate([self._amounts, first.amount])
        if len(self._amounts) == WARM_UP:
            self._cap = float(np.quantile(self._amounts, CLIP_QUANTILE))
            waiting, self._waiting = self._waiting, []
            for part in waiting:
                self.observe_labels(part)
        return rest

    def _cost(self, rows: Rows) -> NDArray[np.float64]:
        """What each labelled row stands for, in currency units."""
        return (fraud_loss(rows, self._costs) + false_decline_cost(rows, self._costs)) * rows.label_weight

    def _judge(self, arrival: int) -> None:
        alpha = self._looks.spend(self._costly)
        if self.breach is not None:
            return
        by_group = self._sums[1] - self._sums[0]
        extra = float(by_group.sum()) - self._limit / 1_000 * float(self._transactions[0])
        bound = heavy_quantile(alpha, float((by_group**2).sum()), float(self._largest.prod()))
        self._evidence = min(1.0, max(0.0, extra / bound))
        if self._evidence >= 1:
            status = self.status()
            self.breach = Breach("cost", arrival, f"{status.words}.", status)
