"""``/v1/labels``: what turned out to be fraud."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from fraudml.decisions.keys import Scope
from fraudml.errors import FieldProblem, FraudmlError, OverloadError, RowError, StoreError
from fraudml.events.label import Label
from fraudml.service.answers import ItemError, LabelOutcome, LabelOutcomes, json_response
from fraudml.service.auth import guard_of
from fraudml.service.body import decode_object, parse, read_body
from fraudml.service.problems import ProblemError, problem_of
from fraudml.service.state import ServiceState, state_of

router = APIRouter(prefix="/v1")
PART = 250  # labels recorded together: the thread that decides is not held for longer than that takes


@router.post("/labels")
async def report(request: Request) -> Response:
    """Record one label, or many as ``{"labels": [...]}``."""
    state = state_of(request)
    await guard_of(request).require(request, Scope.label)
    read = await parse(await read_body(request), partial(_read, state))
    if isinstance(read, list):
        return json_response(await _record(state, read))
    request.state.transaction_id = read.transaction_id
    (outcome,) = await state.pipeline.run(state.scorer.add_labels, [read])
    _count(state, [read], [outcome])
    if isinstance(outcome, FraudmlError):
        raise outcome
    return json_response(LabelOutcome(read.transaction_id, outcome))


def _read(state: ServiceState, body: bytes) -> Label | list[Label | RowError]:
    """One label, or of a batch each label or what is wrong with it."""
    document = decode_object(body)
    if "labels" not in document:
        return state.fields.label(document)
    items = document["labels"]
    if not isinstance(items, list) or len(document) > 1:
        raise RowError([FieldProblem("labels", "expected a list of labels, and nothing beside it")])
    if len(items) > state.settings.max_batch:
        raise ProblemError(413, f"a batch may have {state.settings.max_batch} labels, not {len(items)}; send several")
    read: list[Label | RowError] = []
    for item in items:
        try:
            read.append(state.fields.label(item))
        except RowError as error:
            read.append(error)
    return read


async def _record(state: ServiceState, read: list[Label | RowError]) -> LabelOutcomes:
    told = iter(await _in_parts(state, [item for item in read if isinstance(item, Label)]))
    outcomes = [next(told) if isinstance(item, Label) else item for item in read]
    recorded, unchanged, failed = _count(state, read, outcomes)
    results = [_result(index, item, outcome) for index, (item, outcome) in enumerate(zip(read, outcomes, strict=True))]
    return LabelOutcomes(results, recorded, unchanged, failed)


async def _in_parts(state: ServiceState, labels: list[Label]) -> list[bool | FraudmlError]:
    """The outcome of each label. After a part that failed no further one is tried: their labels fail with it.

    Raises that failure when no label before it is recorded.
    """
    outcomes: list[bool | FraudmlError] = []
    for first in range(0, len(labels), PART):
        try:
            outcomes += await state.pipeline.run(state.scorer.add_labels, labels[first : first + PART])
        except (StoreError, OverloadError) as error:
            if not any(isinstance(outcome, bool) for outcome in outcomes):
                raise
            return outcomes + [error] * (len(labels) - first)
    return outcomes


def _result(index: int, item: Label | RowError, outcome: bool | FraudmlError) -> LabelOutcome | ItemError:
    transaction_id = item.transaction_id if isinstance(item, Label) else None
    if isinstance(outcome, FraudmlError):
        return ItemError(index, problem_of(outcome, f"labels[{index}]"), transaction_id)
    return LabelOutcome(str(transaction_id), outcome)


def _count(
    state: ServiceState, read: Sequence[Label | RowError], outcomes: Sequence[bool | FraudmlError]
) -> tuple[int, int, int]:
    recorded = sum(outcome is True for outcome in outcomes)
    unchanged = sum(outcome is False for outcome in outcomes)
    failed = len(outcomes) - recorded - unchanged
    for name, count in (("recorded", recorded), ("unchanged", unchanged), ("failed", failed)):
        if count:
            state.metrics.labels(name, count)
    for item, outcome in zip(read, outcomes, strict=True):
        if isinstance(item, Label) and outcome is True:
            state.metrics.reported(item.is_fraud)
    return recorded, unchanged, failed
