"""``/v1/batch-predict``: many transactions in, one answer or a stream of decisions out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fraudml.decisions.answer import Prediction, encode, prediction
from fraudml.decisions.keys import Scope
from fraudml.decisions.record import Decision
from fraudml.errors import ConflictError, FraudmlError, OverloadError, RowError, StoreError
from fraudml.events.decoder import TooManyItemsError
from fraudml.events.transaction import Transaction
from fraudml.service.answers import ItemError
from fraudml.service.auth import guard_of
from fraudml.service.body import read_body
from fraudml.service.problems import ProblemError, problem_of
from fraudml.service.state import ServiceState, state_of

router = APIRouter(prefix="/v1")
NDJSON = "application/x-ndjson"
# Transactions decided together, and how many such parts of one request may wait at once: other requests wait behind
# a few hundred transactions, not behind ten thousand.
PART = 200
PARTS_WAITING = 2

Item = Transaction | RowError
Outcome = Decision | FraudmlError


class Part(msgspec.Struct, frozen=True):
    """Some of a request's results, in order; ``failure`` when nothing of it could be decided."""

    results: list[Prediction | ItemError]
    scored: int
    failure: FraudmlError | None = None


@router.post("/batch-predict")
async def batch_predict(request: Request) -> Response:
    """Decide on many transactions; what is wrong with one does not stop the others.

    With ``Accept: application/x-ndjson`` the results are sent line by line as they are decided.
    """
    started = time.perf_counter()
    state, guard = state_of(request), guard_of(request)
    key = await guard.require(request, Scope.score)
    body = await read_body(request)
    try:
        items = await run_in_threadpool(partial(state.decoder.decode_batch, body, most=state.settings.max_batch))
    except TooManyItemsError as error:
        raise ProblemError(413, str(error)) from None
    await guard.limit.admit(key.name, len(items))
    parts = _decide(state, items)
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(_lines(parts), media_type=NDJSON)
    document = await _document(parts)
    state.metrics.answered("batch-predict", time.perf_counter() - started)
    return Response(document, media_type="application/json")


async def _document(parts: AsyncIterator[Part]) -> bytes:
    """All results in one object. Parts are encoded one by one, so that the event loop is never busy for long."""
    texts, scored, failed, failure = [], 0, 0, None
    async for part in parts:
        texts.append(encode(part.results)[1:-1])
        scored += part.scored
        failed += len(part.results) - part.scored
        failure = failure or part.failure
    if failure is not None and not scored:
        raise failure
    return b'{"results":[%b],"scored":%d,"failed":%d}' % (b",".join(texts), scored, failed)


async def _lines(parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield b"".join([encode(result) + b"\n" for result in part.results])


async def _decide(state: ServiceState, items: Sequence[Item]) -> AsyncIterator[Part]:
    """The parts of a request, in order. What the client does not wait for any more is not decided."""
    waiting: deque[asyncio.Task[Part]] = deque()
    try:
        for first in range(0, len(items), PART):
            if len(waiting) == PARTS_WAITING:
                yield await waiting.popleft()
            waiting.append(asyncio.create_task(_decide_part(state, items[first : first + PART], first)))
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()


async def _decide_part(state: ServiceState, items: Sequence[Item], first: int) -> Part:
    """The results of some items, the first of which has the place ``first`` in the request."""
    good = [item for item in items if isinstance(item, Transaction)]
    outcomes: Sequence[Outcome] = ()
    failure = None
    if good:
        try:
            outcomes = (await state.pipeline.score(good)).answer()
        except (StoreError, OverloadError) as error:
            failure = error
            outcomes = [error] * len(good)
    decided = [outcome for outcome in outcomes if isinstance(outcome, Decision)]
    if len(decided) == len(items):  # as usual; what follows would come to the same
        return Part([prediction(decision) for decision in decided], len(decided))
    told = iter(outcomes)
    answers = [next(told) if isinstance(item, Transaction) else item for item in items]
    for reason, kind in (("invalid", RowError), ("conflict", ConflictError)):
        if count := sum(isinstance(answer, kind) for answer in answers):
            state.metrics.rejected(reason, count)
    results = [
        _result(first + place, item, answer) for place, (item, answer) in enumerate(zip(items, answers, strict=True))
    ]
    return Part(results, len(decided), failure)


def _result(index: int, item: Item, outcome: Outcome) -> Prediction | ItemError:
    if isinstance(outcome, Decision):
        return prediction(outcome)
    name = item.transaction_id if isinstance(item, Transaction) else None
    return ItemError(index, problem_of(outcome, f"transactions[{index}]"), name)
