"""JSON Schemas of what a stream carries: transactions and labels in, decisions and alerts out."""

from __future__ import annotations

from typing import Any

import msgspec

from fraudml.decisions.answer import Prediction
from fraudml.events.message_schema import MEANING, Json, label_message, message, transaction_message
from fraudml.events.schema import Schema

MESSAGES = ("transaction", "label", "decision", "alert")
_TIME: Json = {"type": "string", "format": "date-time"}
_ALERT_TYPES: dict[str, Json] = {
    "event_time": _TIME,
    "time": _TIME,
    "amount": {"type": "number"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
}


def messages(schema: Schema) -> dict[str, Json]:
    """The schema of each of :data:`MESSAGES`.

    >>> from fraudml.events.schema import TimeColumn
    >>> [described["title"] for described in messages(Schema(TimeColumn("time"))).values()]
    ['transaction', 'label', 'decision', 'alert']
    """
    made = (transaction_message(schema), label_message(schema), decision_message(), alert_message(schema))
    return dict(zip(MESSAGES, made, strict=True))


def decision_message() -> Json:
    """JSON Schema of a message with a decision: :class:`fraudml.decisions.answer.Prediction`."""
    return message("decision", _decision())


def alert_message(schema: Schema) -> Json:
    """JSON Schema of a message with a decision and its transaction, without what is missing of it
    (:func:`fraudml.decisions.answer.transaction_fields`)."""
    properties: Json = {}
    for column, shape in transaction_message(schema)["properties"].items():
        # how it was written, and which values are known, is the matter of who sent it
        meaning = {
            name: {fact: value for fact, value in facts.items() if fact in ("is", "currency")}
            for name, facts in shape.get(MEANING, {}).items()
        }
        if meaning:
            kind = next(iter(meaning.values()))["is"]
            properties[column] = _ALERT_TYPES.get(kind, {"type": "string"}) | {MEANING: meaning}
    required = list(dict.fromkeys([schema.id_column, schema.event_time.column]))
    transaction = {"type": "object", "properties": properties, "required": required}
    return message(
        "alert",
        {
            "type": "object",
            "properties": {"decision": _decision(), "transaction": transaction},
            "required": ["decision", "transaction"],
        },
    )


def _decision() -> Json:
    (_,), parts = msgspec.json.schema_components([Prediction], ref_template="{name}")
    described: Json = _inlined(parts["Prediction"], parts)
    for name in ("event_time", "decided_at"):
        described["properties"][name] |= _TIME
    return described


def _inlined(value: Any, parts: Json) -> Any:
    """A schema with its parts put in where it refers to them; descriptions, which are docstrings, in one line."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, dict):
        if "$ref" in value:
            return _inlined(parts[value["$ref"]], parts)
        return {word: _inlined(item, parts) for word, item in value.items()}
    return [_inlined(item, parts) for item in value] if isinstance(value, list) else value
