"""What fraudml writes is as the schemas of decisions and alerts say, and what is called compatible is for readers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fraudml.decisions.codec import JsonCodec
from fraudml.decisions.message_schema import alert_message, decision_message, messages
from fraudml.decisions.record import Action, Degradation
from fraudml.events.cards import CardHasher
from fraudml.events.compatibility import Change, changes
from fraudml.events.message_schema import Json, version_of
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.transaction import Transaction
from tests.parity.strategies import ATTRIBUTES, schemas, transaction_lists
from tests.support.scoring import SCHEMA, decision, transaction


def codec_of(schema: Schema) -> JsonCodec:
    return JsonCodec(schema, CardHasher(b"key"), max_ahead_s=86_400)


def valid(described: Json, raw: bytes) -> bool:
    check = jsonschema_rs.Draft202012Validator(described, validate_formats=True)
    return check.is_valid(json.loads(raw))


decisions = st.fixed_dictionaries(
    {
        "score": st.none() | st.floats(0, 1),
        "action": st.sampled_from(list(Action)),
        "late": st.booleans(),
        "degraded": st.lists(st.sampled_from(list(Degradation)), unique=True).map(tuple),
    }
)


@given(schemas().flatmap(lambda schema: st.tuples(st.just(schema), transaction_lists(schema, max_size=3))), decisions)
def test_decisions_and_alerts_are_as_described(
    case: tuple[Schema, tuple[Transaction, ...]], made: dict[str, Any]
) -> None:
    schema, events = case
    codec = codec_of(schema)
    for event in events:
        decided = decision(event, 1, **made)
        told, alert = codec.encode_decision(decided), codec.encode_alert(decided)
        assert valid(decision_message(), told)
        assert valid(alert_message(schema), alert)
        assert json.loads(alert)["decision"] == json.loads(told)
        assert not valid(alert_message(schema), told)
        for name in json.loads(told):
            assert not valid(decision_message(), json.dumps({**json.loads(told), name: [[]]}).encode())


def test_readers_have_to_let_pass_what_they_do_not_know() -> None:
    told = json.loads(codec_of(SCHEMA).encode_decision(decision(transaction(1), 1)))
    assert valid(decision_message(), json.dumps({**told, "new": 1}).encode())


@st.composite
def edited(draw: st.DrawFn, schema: Schema) -> Schema:
    """The schema with another amount, and some attributes added, removed or of another type."""
    kept = {name: each for name, each in schema.attributes.items() if draw(st.booleans())}
    more = draw(st.lists(st.sampled_from(sorted(ATTRIBUTES)), max_size=2))
    kinds = st.sampled_from(list(AttributeType))
    attributes = kept | {name: Attribute(draw(kinds), draw(st.sampled_from([None, "other"]))) for name in more}
    amount = draw(st.sampled_from([schema.amount, schema.amount, None, AmountColumn("amount", currency="EUR")]))
    return replace(schema, attributes=attributes, amount=amount)


@given(st.data())
def test_compatible_alerts_are_valid_by_the_old_schema(data: st.DataObject) -> None:
    old = data.draw(schemas())
    new = data.draw(edited(old))
    then, now = alert_message(old), alert_message(new)
    made = changes(then, now)
    assert (made == []) == (version_of(then) == version_of(now))
    if all(change.compatible for change in made):
        for event in data.draw(transaction_lists(new, max_size=2)):
            assert valid(then, codec_of(new).encode_alert(decision(event, 1))), made


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (
            replace(SCHEMA, attributes=SCHEMA.attributes | {"vip": Attribute(AttributeType.boolean)}),
            Change("alert", "transaction.vip", True, "is new"),
        ),
        (
            replace(SCHEMA, attributes={}),
            Change("alert", "transaction.items", True, "is gone; it could be missing before"),
        ),
        (
            replace(SCHEMA, attributes={"items": Attribute(AttributeType.number)}),
            Change("alert", "transaction.items", False, "type integer -> number"),
        ),
        (
            replace(SCHEMA, amount=AmountColumn("amount", currency="EUR")),
            Change("alert", "transaction.amount", False, "currency none -> EUR"),
        ),
        (
            replace(SCHEMA, entities=SCHEMA.entities | {"customer": "client"}),
            Change("alert", "transaction.cust_no", False, "customer is the field client now, no longer cust_no"),
        ),
    ],
)
def test_a_change_for_readers_of_alerts(new: Schema, expected: Change) -> None:
    assert expected in changes(alert_message(SCHEMA), alert_message(new))


@pytest.mark.parametrize(
    "new",
    [
        replace(SCHEMA, event_time=TimeColumn("time", timezone="Europe/Berlin")),
        replace(SCHEMA, amount=AmountColumn("amount", decimals=3)),
        replace(SCHEMA, ignore=("note",)),
        replace(SCHEMA, attributes=SCHEMA.attributes | {"country": Attribute(AttributeType.category)}),
    ],
)
def test_how_transactions_are_written_is_no_matter_of_alerts(new: Schema) -> None:
    assert changes(alert_message(SCHEMA), alert_message(new)) == []


def test_another_release_may_tell_more_of_a_decision() -> None:
    old, new = decision_message(), decision_message()
    new["properties"]["reasons"] = {"type": "array", "items": {"type": "string"}}
    new["required"].append("reasons")
    assert changes(old, new) == [Change("decision", "reasons", True, "is new")]
    assert changes(new, old) == [Change("decision", "reasons", False, "is gone; it was always there")]
    new = decision_message()
    new["properties"]["action"]["enum"].append("hold")
    (change,) = changes(old, new)
    assert not change.compatible
    assert [each.compatible for each in changes(new, old)] == [True]
    new = decision_message()
    new["properties"]["score"] = {"type": "number"}
    assert [each.compatible for each in changes(old, new)] == [True]
    assert [each.compatible for each in changes(new, old)] == [False]


def test_every_message_is_a_sound_schema_of_its_name() -> None:
    for name, described in messages(SCHEMA).items():
        assert described["title"] == name
        jsonschema_rs.meta.validate(described)
        assert version_of(msgspec.json.decode(msgspec.json.encode(described))) == version_of(described)


def test_versions_of_decisions_stay_the_same_in_every_process_python_and_release() -> None:
    """A change here gives a new version to the messages of everybody who upgrades."""
    assert version_of(decision_message()) == "decision/a507eed7ab35"
    assert version_of(alert_message(SCHEMA)) == "alert/13b609aa816d"
