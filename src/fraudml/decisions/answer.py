"""A decision as others are told of it, over HTTP and in a stream: a function of the record alone, so whoever asks again
gets the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from fraudml.decisions.record import Action, Decision, Degradation
from fraudml.events.schema import AttributeType, Schema
from fraudml.events.transaction import Transaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
encode = msgspec.json.Encoder().encode


class Prediction(msgspec.Struct, frozen=True):
    """A decision. ``score`` is the calibrated probability of fraud, null when the model gave none; ``late``: an
    event of the same customer (or other entity) with a later time was seen before; ``degraded``: what was not
    available when this was decided."""

    transaction_id: str
    event_time: datetime
    score: float | None
    action: Action
    model_version: str
    arm: str
    late: bool
    degraded: tuple[Degradation, ...]
    decided_at: datetime


def prediction(decision: Decision) -> Prediction:
    """The answer of a decision."""
    return Prediction(
        transaction_id=decision.transaction.transaction_id,
        event_time=moment(decision.transaction.event_time_us),
        score=decision.score,
        action=decision.action,
        model_version=decision.model_version,
        arm=decision.arm,
        late=decision.late,
        degraded=decision.degraded,
        decided_at=moment(decision.decided_at_us),
    )


def transaction_fields(schema: Schema, event: Transaction) -> dict[str, Any]:
    """A transaction in the request's names, without the missing values.

    >>> from fraudml.events.schema import TimeColumn
    >>> transaction_fields(Schema(TimeColumn("time")), Transaction("t1", 0, (), None, ()))
    {'transaction_id': 't1', 'time': datetime.datetime(1970, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)}
    """
    fields: dict[str, Any] = {
        schema.id_column: event.transaction_id,
        schema.event_time.column: moment(event.event_time_us),
    }
    fields.update(zip(schema.entities.values(), event.entities, strict=True))
    if schema.amount is not None and event.amount_minor is not None:
        decimals = schema.amount.decimals
        fields[schema.amount.column] = event.amount_minor / 10**decimals if decimals else event.amount_minor
    for (name, attribute), value in zip(schema.attributes.items(), event.attributes, strict=True):
        shown: Any = value
        if attribute.type is AttributeType.time and isinstance(value, int):
            shown = moment(value)
        elif attribute.type is AttributeType.boolean and value is not None:
            shown = bool(value)
        fields.setdefault(schema.attribute_column(name), shown)
    return {name: value for name, value in fields.items() if value is not None}


@lru_cache(4_096)  # all decisions of a batch are of one moment
def moment(moment_us: int) -> datetime:
    """A time to answer, in UTC.

    >>> encode(moment(1_714_521_600_250_000))
    b'"2024-05-01T00:00:00.250000Z"'
    """
    return _EPOCH + timedelta(0, 0, moment_us)
