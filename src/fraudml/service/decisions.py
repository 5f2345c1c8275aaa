"""``/v1/decisions/{transaction_id}``: what was decided, on what grounds, and what it turned out to be."""

from __future__ import annotations

import math

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from fraudml.decisions.answer import prediction, transaction_fields
from fraudml.decisions.keys import Scope
from fraudml.service.answers import DecisionView, json_response, verdict
from fraudml.service.auth import guard_of
from fraudml.service.state import ServiceState, state_of

router = APIRouter(prefix="/v1")


@router.get("/decisions/{transaction_id:path}")
async def decision(request: Request, transaction_id: str) -> Response:
    """One decision from the log."""
    state = state_of(request)
    await guard_of(request).require(request, Scope.read)
    identifier = state.fields.identifier(transaction_id)
    return json_response(await run_in_threadpool(_view, state, identifier))


def _view(state: ServiceState, transaction_id: str) -> DecisionView:
    found = state.scorer.recorder.decision(transaction_id)  # also while the log is gone
    lineup = state.scorer.lineup
    feature_set = (lineup.model(found.model_version) or lineup.champion).bundle.feature_set
    features = None
    if found.fingerprint == feature_set.fingerprint:
        pairs = zip(feature_set.input_names, found.features().tolist(), strict=True)
        features = {name: value for name, value in pairs if not math.isnan(value)}
    return DecisionView(
        decision=prediction(found),
        transaction=transaction_fields(state.schema, found.transaction),
        features=features,
        labels=[verdict(report) for report in state.log.label_history(transaction_id)],
        trial=found.trial,
    )
