"""``/v1/explain``: why a transaction got its score."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from fraudml.decisions.explanation import Explained
from fraudml.decisions.keys import Scope
from fraudml.errors import FieldProblem, Overloaded, RowError
from fraudml.service.answers import Explanation, Reason, json_response
from fraudml.service.auth import guard_of
from fraudml.service.body import decode_object, read_body
from fraudml.service.state import ServiceState, state_of
from fraudml.service.threads import Lane

router = APIRouter(prefix="/v1")
MOST_REASONS = 10
THREADS = 2
MOST_WAITING = 100


@router.post("/explain")
async def explain(request: Request) -> Response:
    """Explain a decision by its id, or a transaction without recording it."""
    state, guard = state_of(request), guard_of(request)
    key = await guard.require(request, Scope.score)
    await guard.limit.admit(key.name, 1)
    top = _top(request)
    body = await read_body(request)
    lane: Lane = request.app.state.explanations
    try:
        # not in the scoring thread: an explanation asks the model hundreds of times, and nobody's decision shall wait
        explained = await lane.run(_explain, state, body)
    except Overloaded:
        state.metrics.shed("queue_full")
        raise
    return json_response(_answer(explained, top))


def explanation_lane() -> Lane:
    """The threads that explain; an app has one such lane, as ``app.state.explanations``."""
    return Lane(THREADS, MOST_WAITING)


def _explain(state: ServiceState, body: bytes) -> Explained:
    document = decode_object(body)
    if len(document) == 1:
        ((name, value),) = document.items()
        if name in state.fields.id_names:
            return state.scorer.explain_decided(state.fields.identifier(value, name))
    return state.scorer.explain(state.transaction(document))


def _answer(explained: Explained, top: int) -> Explanation:
    parts = explained.explanation
    shown, other = parts.reasons[:top], parts.reasons[top:]
    return Explanation(
        transaction_id=explained.transaction_id,
        recorded=explained.recorded,
        score=explained.score,
        action=explained.action,
        model_version=explained.model_version,
        late=explained.late,
        degraded=explained.degraded,
        log_odds=parts.log_odds,
        base_log_odds=parts.base_log_odds,
        other_contributions=sum(reason.contribution for reason in other),
        reasons=[Reason(r.feature, r.value, r.typical, r.contribution, r.text) for r in shown],
    )


def _top(request: Request) -> int:
    text = request.query_params.get("top", str(MOST_REASONS))
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= 1_000):
        raise RowError([FieldProblem("?top", "expected a whole number from 1 to 1000")])
    return int(text)
