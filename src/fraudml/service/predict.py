"""``/v1/predict`` and ``/v1/batch-predict``: transactions in, decisions out."""

from __future__ import annotations

import heapq
import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from fraudml.decisions.keys import Scope
from fraudml.decisions.record import Decision
from fraudml.errors import ConflictError, FieldProblem, FraudmlError, RowError
from fraudml.events.normalise import UNKNOWN_TOLD
from fraudml.events.transaction import Transaction
from fraudml.service.answers import BatchPrediction, ItemError, Prediction, json_response, prediction
from fraudml.service.auth import guard_of
from fraudml.service.body import decode_object, parse, read_body
from fraudml.service.problems import ProblemError, problem_of
from fraudml.service.state import ServiceState, state_of

router = APIRouter(prefix="/v1")


@router.post("/predict")
async def predict(request: Request) -> Response:
    """Decide on one transaction."""
    started = time.perf_counter()
    state, guard = state_of(request), guard_of(request)
    key = await guard.require(request, Scope.score)
    guard.limit.take(key.name, 1)
    body = await read_body(request)
    try:
        transaction = await parse(body, partial(_read, state))
    except RowError:
        state.metrics.rejected("invalid")
        raise
    request.state.transaction_id = transaction.transaction_id
    (outcome,) = await state.worker.run(state.scorer.try_score, [transaction])
    if isinstance(outcome, ConflictError):
        state.metrics.rejected("conflict")
        raise outcome
    state.metrics.predictions("predict", [outcome], time.perf_counter() - started)
    return json_response(prediction(outcome))


@router.post("/batch-predict")
async def batch_predict(request: Request) -> Response:
    """Decide on many transactions; what is wrong with one does not stop the others."""
    started = time.perf_counter()
    state, guard = state_of(request), guard_of(request)
    key = await guard.require(request, Scope.score)
    body = await read_body(request)
    rows = await parse(body, partial(_rows, state))
    guard.limit.take(key.name, len(rows))
    read = await run_in_threadpool(_read_all, state, rows)
    good = [item for item in read if isinstance(item, Transaction)]
    scored = iter(await state.worker.run(state.scorer.try_score, good))
    outcomes = [next(scored) if isinstance(item, Transaction) else item for item in read]
    decided = [outcome for outcome in outcomes if isinstance(outcome, Decision)]
    _count_rejected(state, outcomes)
    state.metrics.predictions("batch-predict", decided, time.perf_counter() - started)
    results = [_result(index, outcome) for index, outcome in enumerate(outcomes)]
    return json_response(BatchPrediction(results, len(decided), len(results) - len(decided)))


def _read(state: ServiceState, body: bytes) -> Transaction:
    return state.transaction(decode_object(body))


def _rows(state: ServiceState, body: bytes) -> list[Any]:
    """The items of a batch; 413 when there are too many."""
    document = decode_object(body)
    rows = document.get("transactions")
    problems = [
        FieldProblem(name, "unknown field; a batch has only 'transactions'")
        for name in heapq.nsmallest(UNKNOWN_TOLD, document.keys() - {"transactions"})
    ]
    if not isinstance(rows, list):
        problems.append(FieldProblem("transactions", "expected a list of transactions"))
    if problems or not isinstance(rows, list):
        raise RowError(problems)
    if len(rows) > state.settings.max_batch:
        raise ProblemError(
            413, f"a batch may have {state.settings.max_batch} transactions, not {len(rows)}; send several"
        )
    return rows


def _read_all(state: ServiceState, rows: list[Any]) -> list[Transaction | RowError]:
    read: list[Transaction | RowError] = []
    for row in rows:
        try:
            if not isinstance(row, dict):
                raise RowError([FieldProblem("", "expected a JSON object")])
            read.append(state.transaction(row))
        except RowError as error:
            read.append(error)
    return read


def _result(index: int, outcome: Decision | FraudmlError) -> Prediction | ItemError:
    if isinstance(outcome, Decision):
        return prediction(outcome)
    return ItemError(index, problem_of(outcome, f"transactions[{index}]"))


def _count_rejected(state: ServiceState, outcomes: list[Decision | ConflictError | RowError]) -> None:
    for reason, kind in (("invalid", RowError), ("conflict", ConflictError)):
        count = sum(isinstance(outcome, kind) for outcome in outcomes)
        if count:
            state.metrics.rejected(reason, count)
