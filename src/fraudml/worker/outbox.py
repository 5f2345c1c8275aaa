"""What is published of a decision."""

from __future__ import annotations

from fraudml.decisions.codec import Codec
from fraudml.decisions.message_schema import alert_message, decision_message
from fraudml.decisions.record import Action, Decision
from fraudml.decisions.stream import Message, Outgoing
from fraudml.events.message_schema import headers_of
from fraudml.events.schema import Schema


class Outbox:
    """The messages of decisions: each to ``decisions``, reviews and declines also to ``alerts``, under the key that the
    transaction came with, so that what is about one entity stays in order."""

    def __init__(self, schema: Schema, codec: Codec, decisions: str, alerts: str) -> None:
        self._codec = codec
        self._decisions = decisions
        self._alerts = alerts
        self._of_decision = headers_of(decision_message())
        self._of_alert = headers_of(alert_message(schema))

    def messages(self, message: Message, decision: Decision) -> list[Outgoing]:
        """What to publish of a message's decision."""
        key, codec = message.key, self._codec
        made = [Outgoing(self._decisions, key, codec.encode_decision(decision), self._of_decision)]
        if decision.action is not Action.approve:
            made.append(Outgoing(self._alerts, key, codec.encode_alert(decision), self._of_alert))
        return made
