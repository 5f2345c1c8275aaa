"""Recomputes logged decisions from their logged vectors and the very model that made them.

Nothing is read but the log and the registry: no online store, no history. A score is the same when all of its bits are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.cache import quantise
from fraudml.decisions.model import Model
from fraudml.decisions.policy import Policy, WhenDegraded
from fraudml.decisions.record import TOUCHES_SCORE, Action, Decision
from fraudml.errors import BundleError, NotFoundError
from fraudml.events.source import Progress
from fraudml.features.derive import to_model
from fraudml.models.explain import Explanation

SHOWN = 100  # differences that are told; all are counted


class Inputs(StrEnum):
    """What the model read, as far as its answer tells."""

    exact = "exact"
    quantised = "quantised"  # as while a prediction cache is in use


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """One decision and what it is now. ``score`` and ``action`` are logged, ``again`` ones recomputed.

    ``inputs``: which gave the logged score; ``None`` when neither did, or there is none. ``problem``: why it cannot be
    replayed.
    """

    transaction_id: str
    arrival: int
    model_version: str
    arm: str
    score: float | None
    action: Action
    score_again: float | None = None
    action_again: Action | None = None
    inputs: Inputs | None = None
    let_through: bool = False
    identical: bool = False
    problem: str | None = None


class Counts(msgspec.Struct):
    """Of a model version. ``problem``: why none of its decisions, or some, cannot be replayed."""

    identical: int = 0
    differing: int = 0
    unreplayable: int = 0
    quantised: int = 0
    problem: str | None = None


class Report(msgspec.Struct):
    """All that were looked at, by model version; ``examples``: the first :data:`SHOWN` that differ."""

    decisions: int = 0
    identical: int = 0
    differing: int = 0
    unreplayable: int = 0
    versions: dict[str, Counts] = msgspec.field(default_factory=dict)
    examples: list[Replayed] = msgspec.field(default_factory=list)


class Replayer:
    """Replays decisions. ``load`` gives the model of a version, or raises ``NotFoundError`` or ``BundleError``."""

    def __init__(self, load: Callable[[str], Model]) -> None:
        self._load = load
        self._models: dict[str, Model | str] = {}

    def run(self, batches: Iterable[Sequence[Decision]], progress: Progress | None = None) -> Report:
        """Replay many."""
        report = Report()
        for batch in batches:
            for each in self.replay(batch):
                _count(report, each)
            report.decisions += len(batch)
            if progress:
                progress(report.decisions, None)
        return report

    def replay(self, batch: Sequence[Decision]) -> list[Replayed]:
        """Each decision of a batch, by model version."""
        versions: dict[str, list[Decision]] = {}
        for decision in batch:
            versions.setdefault(decision.model_version, []).append(decision)
        return [each for version, own in versions.items() for each in self._of_version(version, own)]

    def explain(self, decision: Decision) -> Explanation | None:
        """The reasons for one decision: of its own model and its logged vector, so always the same. ``None`` where it
        cannot be replayed."""
        model = self._model(decision.model_version)
        if isinstance(model, str) or _unfit(model, decision):
            return None
        return model.explainer.explain(decision.features())

    def _model(self, version: str) -> Model | str:
        """The model, or why there is none."""
        if version not in self._models:
            try:
                self._models[version] = self._load(version)
            except (NotFoundError, BundleError) as error:
                self._models[version] = str(error)
        return self._models[version]

    def _of_version(self, version: str, decisions: Sequence[Decision]) -> list[Replayed]:
        model = self._model(version)
        problems = [model if isinstance(model, str) else _unfit(model, decision) for decision in decisions]
        fit = [decision for decision, problem in zip(decisions, problems, strict=True) if not problem]
        again = iter([] if isinstance(model, str) or not fit else _scores(model, fit))
        return [
            _replayed(decision, problem=problem)
            if problem or isinstance(model, str)
            else _compared(model, decision, *next(again))
            for decision, problem in zip(decisions, problems, strict=True)
        ]


def _unfit(model: Model, decision: Decision) -> str | None:
    """Why a model cannot have made a decision."""
    feature_set = model.bundle.feature_set
    if decision.fingerprint != feature_set.fingerprint or len(decision.vector) != 8 * len(feature_set.inputs):
        return f"version {model.version} in this registry has other features than the one that decided"
    return None


def _scores(model: Model, decisions: Sequence[Decision]) -> list[tuple[float | None, Inputs | None]]:
    """For each decision the score that is the logged one, if any, else that of the exact inputs; and the inputs.

    A score can depend, in its last bits, on how many rows a model is asked about at once, so those that differ are
    asked about alone.
    """
    exact = to_model(np.array([decision.features() for decision in decisions]))
    found: list[tuple[float | None, Inputs | None]] = []
    for row, (decision, first) in enumerate(zip(decisions, _ask(model, exact), strict=True)):
        own = exact[row : row + 1]
        tried = ((first, Inputs.exact), *((_ask(model, rows)[0], kind) for rows, kind in _ways(own, first, decision)))
        same = [each for each in tried if each[0] == decision.score and decision.score is not None]
        found.append(same[0] if same else (first, None))
    return found


def _ways(
    own: NDArray[np.float32], first: float | None, decision: Decision
) -> tuple[tuple[NDArray[np.float32], Inputs], ...]:
    """What else to ask about: nothing, where the first answer was the logged one or none was logged."""
    if decision.score is None or first == decision.score:
        return ()
    return (own, Inputs.exact), (quantise(own), Inputs.quantised)


def _ask(model: Model, rows: NDArray[np.float32]) -> list[float | None]:
    try:
        return [score if 0.0 <= score <= 1.0 else None for score in model.bundle.runtime.score(rows).tolist()]
    except BundleError:
        return [None] * len(rows)


def _compared(model: Model, decision: Decision, again: float | None, inputs: Inputs | None) -> Replayed:
    """A decision without a score is one whose model had failed, which cannot be repeated; its action follows from
    that. What exploration let through must have been a decline."""
    same_score = decision.score is None or inputs is not None
    score = decision.score if same_score else again
    own = [policy.action(score, decision.degraded) for policy in _policies(model.policy, decision)]
    let_through = decision.trial is not None and decision.trial.let_through
    actions = [Action.approve for action in own if action is Action.decline] if let_through else own
    same_action = decision.action in actions
    return _replayed(
        decision,
        score_again=score,
        action_again=decision.action if same_action else own[0],
        inputs=inputs,
        identical=same_score and same_action,
    )


def _policies(policy: Policy, decision: Decision) -> list[Policy]:
    """The policy as the settings have it now and, where it matters, as they may have had it then."""
    if TOUCHES_SCORE.isdisjoint(decision.degraded):
        return [policy]
    return [policy, *(Policy(policy.review, policy.decline, each) for each in WhenDegraded)]


def _replayed(decision: Decision, **found: object) -> Replayed:
    return Replayed(
        transaction_id=decision.transaction.transaction_id,
        arrival=decision.arrival,
        model_version=decision.model_version,
        arm=decision.arm,
        score=decision.score,
        action=decision.action,
        let_through=decision.trial is not None and decision.trial.let_through,
        **found,  # type: ignore[arg-type]
    )


def _count(report: Report, each: Replayed) -> None:
    counts = report.versions.setdefault(each.model_version, Counts())
    if each.problem:
        counts.unreplayable += 1
        report.unreplayable += 1
        counts.problem = each.problem
    elif each.identical:
        counts.identical += 1
        report.identical += 1
        counts.quantised += each.inputs is Inputs.quantised
    else:
        counts.differing += 1
        report.differing += 1
        if len(report.examples) < SHOWN:
            report.examples.append(each)
