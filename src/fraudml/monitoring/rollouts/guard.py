"""Watches one challenger against the champion and says when a limit is exceeded."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from fraudml.decisions.costs import Costs
from fraudml.decisions.record import Action
from fraudml.models.rollout_guardrails import Guardrails
from fraudml.monitoring.rollouts.checks import Breach, CallCheck, CheckStatus
from fraudml.monitoring.rollouts.kept import Kept
from fraudml.monitoring.rollouts.money import CostCheck
from fraudml.monitoring.rollouts.rows import Arms, Outcomes, Rows, read
from fraudml.monitoring.rollouts.shifts import ActionCheck, ScoreCheck

# How alpha is split. Failures are given the most: they are rare, and hurt at once.
SPLIT = {"errors": 0.4, "latency": 0.1, "scores": 0.1, "actions": 0.1, "cost": 0.3}


class Guard(Kept):
    """The guardrails of one challenger, fed with the log as it grows.

    Feed every decision of the rollout once, in order of arrival, and every label report once, in order of arrival,
    after its decision. What comes out does not depend on how the streams are cut into batches. A batch costs time in
    proportion to its rows; memory does not grow. Two challengers have a guard each. With :meth:`advance` it also does
    not depend on how far one stream was ahead of the other.

    ``decimals``: of the currency (2: an ``amount_minor`` of 100 is one unit).
    """

    KEPT = dict.fromkeys(("_errors", "_latency", "_scores", "_actions", "_cost"))

    def __init__(self, guardrails: Guardrails, arms: Arms, costs: Costs, decimals: int) -> None:
        self._arms, self._costs, self._decimals = arms, costs, decimals
        self._slow_us = guardrails.slow_ms * 1_000
        alpha = {check: share * guardrails.alpha for check, share in SPLIT.items()}
        least = guardrails.min_decisions
        self._errors = CallCheck("errors", "fail", guardrails.max_error_rate, alpha["errors"])
        self._latency = CallCheck(
            "latency", f"take longer than {guardrails.slow_ms:g} ms", guardrails.max_slow_share, alpha["latency"]
        )
        self._scores = ScoreCheck(guardrails.max_psi, alpha["scores"], least)
        limits = {Action.decline: guardrails.max_decline_shift, Action.review: guardrails.max_review_shift}
        self._actions = ActionCheck(limits, alpha["actions"], least)
        self._cost = CostCheck(costs, guardrails.max_extra_cost_per_1000, alpha["cost"], guardrails.min_costly)

    def observe(self, batch: pa.RecordBatch) -> None:
        """Count decisions, in the log's schema of outcomes; those of other arms are passed over."""
        self.count(read(batch, self._arms, self._costs, self._decimals))

    def observe_labels(self, batch: pa.RecordBatch) -> None:
        """Count label reports, joined with their decisions."""
        self.count_labels(read(batch, self._arms, self._costs, self._decimals))

    def advance(self, outcomes: Outcomes, labels: Outcomes) -> None:
        """Count decisions and label reports of the same stretch of the log, in order of arrival."""
        rows = outcomes.of(self._arms)
        self._count_decided(rows)
        self._cost.advance(rows, labels.of(self._arms))

    def count(self, rows: Rows) -> None:
        """Count decisions that were read before."""
        self._count_decided(rows)
        self._cost.observe(rows)

    def _count_decided(self, rows: Rows) -> None:
        self._errors.observe(rows, rows.failed)
        self._latency.observe(rows, rows.model_us > self._slow_us)
        scored = rows.take(~rows.failed & ~np.isnan(rows.score))  # a failed row has the champion's score, or none
        self._scores.observe(scored)
        self._actions.observe(scored)

    def count_labels(self, rows: Rows) -> None:
        """Count label reports that were read before."""
        self._cost.observe_labels(rows)

    def breach(self, only: Collection[str] | None = None) -> Breach | None:
        """The first limit that was exceeded, or the first among some checks; it stays."""
        checks = (self._errors, self._latency, self._scores, self._actions, self._cost)
        found = [check.breach for check in checks if check.breach is not None]
        wanted = [breach for breach in found if only is None or breach.check in only]
        return min(wanted, key=lambda breach: breach.arrival, default=None)

    def status(self) -> list[CheckStatus]:
        """Where each check stands."""
        return [
            self._errors.status(),
            self._latency.status(),
            self._scores.status(),
            *self._actions.statuses(),
            self._cost.status(),
        ]
