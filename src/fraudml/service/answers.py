"""What the API answers beside decisions (:mod:`fraudml.decisions.answer`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from fastapi import Response

from fraudml.decisions.answer import Prediction, encode, moment
from fraudml.decisions.record import Action, LabelReport, Trial
from fraudml.service.problems import Problem


class ItemError(msgspec.Struct, frozen=True):
    """An item of a batch that failed, by its place in the request."""

    index: int
    error: Problem
    transaction_id: str | None = None


class BatchPrediction(msgspec.Struct, frozen=True):
    """The outcome of every item, in the request's order."""

    results: list[Prediction | ItemError]
    scored: int
    failed: int


class Reason(msgspec.Struct, frozen=True):
    """One feature's part in the score; ``contribution`` is in log-odds, positive raises the risk."""

    feature: str
    value: float | None
    typical: float | None
    contribution: float
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """``base_log_odds``, the contributions and ``other_contributions`` add up to ``log_odds``, the log-odds of the
    score. ``recorded``: of a decision in the log, from the features it was made with."""

    transaction_id: str
    recorded: bool
    score: float | None
    action: Action
    model_version: str
    late: bool
    degraded: tuple[str, ...]
    log_odds: float
    base_log_odds: float
    other_contributions: float
    reasons: list[Reason]


class LabelOutcome(msgspec.Struct, frozen=True):
    """``recorded`` is false for a repeat of what is known."""

    transaction_id: str
    recorded: bool


class LabelOutcomes(msgspec.Struct, frozen=True):
    """The outcome of every label, in the request's order."""

    results: list[LabelOutcome | ItemError]
    recorded: int
    unchanged: int
    failed: int


class Verdict(msgspec.Struct, frozen=True):
    """A label report."""

    is_fraud: bool
    known_at: datetime


class DecisionView(msgspec.Struct, frozen=True):
    """A decision with all that led to it. ``features`` is null when the model that decided read other features than
    those that serve now; ``trial`` outside of experiments."""

    decision: Prediction
    transaction: dict[str, Any]
    features: dict[str, float] | None
    labels: list[Verdict]
    trial: Trial | None


def json_response(value: Any) -> Response:
    """A 200 with the value as JSON."""
    return Response(encode(value), media_type="application/json")


def verdict(report: LabelReport) -> Verdict:
    """The answer of a label report."""
    return Verdict(report.label.is_fraud, moment(report.label.known_at_us))
