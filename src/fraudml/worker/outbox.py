"""What is published of a decision."""

from __future__ import annotations

from typing import Any

import msgspec

from fraudml.decisions.answer import Prediction, encode, prediction, transaction_fields
from fraudml.decisions.record import Action, Decision
from fraudml.decisions.stream import Message, Outgoing
from fraudml.events.schema import Schema


class Alert(msgspec.Struct, frozen=True):
    """A decision that somebody has to look at, or that declined, with the transaction."""

    decision: Prediction
    transaction: dict[str, Any]


class Outbox:
    """The messages of decisions: each to ``decisions``, reviews and declines also to ``alerts``, under the key that the
    transaction came with, so that what is about one entity stays in order."""

    def __init__(self, schema: Schema, decisions: str, alerts: str) -> None:
        self._schema = schema
        self._decisions = decisions
        self._alerts = alerts

    def messages(self, message: Message, decision: Decision) -> list[Outgoing]:
        """What to publish of a message's decision."""
        told = prediction(decision)
        made = [Outgoing(self._decisions, message.key, encode(told))]
        if decision.action is not Action.approve:
            alert = Alert(told, transaction_fields(self._schema, decision.transaction))
            made.append(Outgoing(self._alerts, message.key, encode(alert)))
        return made
