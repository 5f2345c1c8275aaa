"""Why a transaction got its score, from the log for a decided one, otherwise without recording anything."""

from __future__ import annotations

import msgspec

from fraudml.decisions.identity import conflict, difference
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model, degradations
from fraudml.decisions.record import Action, Decision, Degradation
from fraudml.decisions.recorder import Recorder
from fraudml.errors import ConflictError, OnlineStoreError
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OnlineStore, StateRead
from fraudml.models.explain import Explanation


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation and what it explains. ``recorded``: of a logged decision, from its logged features.

    ``model_version`` is the model that explains: the one that decided or, when it serves no more, the champion;
    ``score`` is its score.
    """

    transaction_id: str
    recorded: bool
    score: float | None
    action: Action
    model_version: str
    late: bool
    degraded: tuple[Degradation, ...]
    explanation: Explanation


def explain_decided(lineup: Lineup, decided: Recorder, transaction_id: str) -> Explained:
    """Explain a logged decision; raises ``NotFoundError`` and, when its features were others, ``ConflictError``."""
    decision = decided.decision(transaction_id)
    return _of_decision(lineup.model(decision.model_version) or lineup.champion, decision)


def explain_transaction(lineup: Lineup, decided: Recorder, store: OnlineStore, transaction: Transaction) -> Explained:
    """Explain the logged decision of this very transaction or, when it is new, what its decision would be."""
    model = lineup.decider(transaction)
    decision = decided.find([transaction.transaction_id]).get(transaction.transaction_id)
    if decision is not None:
        field = difference(model.bundle.feature_set.schema, decision.transaction, transaction)
        if field is not None:
            raise conflict(transaction.transaction_id, field)
        return _of_decision(lineup.model(decision.model_version) or lineup.champion, decision)
    try:
        state: StateRead | None = store.read([transaction])
    except OnlineStoreError:
        state = None  # as when scoring: what the transaction itself says still counts
    vectors = model.vectors([transaction], state)
    score = model.scores(vectors)[0]
    degraded = degradations(state, score) + model.take_lost()
    return Explained(
        transaction_id=transaction.transaction_id,
        recorded=False,
        score=score,
        action=model.policy.action(score, degraded),
        model_version=model.version,
        late=state is not None and bool(state.late[0]),
        degraded=degraded,
        explanation=model.explainer.explain(vectors[0]),
    )


def _of_decision(model: Model, decision: Decision) -> Explained:
    transaction_id = decision.transaction.transaction_id
    if decision.fingerprint != model.bundle.feature_set.fingerprint:
        raise ConflictError(
            f"transaction {transaction_id!r} was decided by model {decision.model_version} with other features "
            f"than model {model.version}, which serves now: it cannot explain that decision"
        )
    vector = decision.features()
    same = decision.model_version == model.version
    score = decision.score if same else model.scores(vector[None, :])[0]
    return Explained(
        transaction_id=transaction_id,
        recorded=True,
        score=score,
        action=decision.action if same else model.policy.action(score, decision.degraded),
        model_version=model.version,
        late=decision.late,
        degraded=decision.degraded,
        explanation=model.explainer.explain(vector),
    )
