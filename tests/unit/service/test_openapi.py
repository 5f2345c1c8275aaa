"""The document describes exactly what is served, for any schema."""

from __future__ import annotations

from typing import Any

import pytest

from fraudml.events.cards import CardHasher
from fraudml.events.example import example
from fraudml.events.normalise import Normaliser
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn, TimeFormat
from fraudml.service import batch, decisions, docs, explain, health, labels, predict, profile, v2
from fraudml.service.openapi import document, transaction_schema
from tests.support.scoring import SCHEMA

SCHEMAS = [
    SCHEMA,
    Schema(TimeColumn("Time", TimeFormat.seconds_from, start="2013-09-01")),
    Schema(
        TimeColumn("at", TimeFormat.epoch_ms),
        attributes={
            "born": Attribute(AttributeType.time, column="dob"),
            "vip": Attribute(AttributeType.boolean),
            "kind": Attribute(AttributeType.category),
        },
        amount=AmountColumn("sum", optional=True, allow_negative=True, currency="EUR"),
        ignore=("note",),
    ),
]


class _State:
    """As much of a service's state as the document reads."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.example = example(schema)
        self.serving = ("fraud", "1", 5)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_example_has_the_documented_fields_and_is_accepted(schema: Schema) -> None:
    described = transaction_schema(schema)
    row = example(schema)
    assert set(described["required"]) <= set(row) <= set(described["properties"])
    Normaliser(schema, CardHasher(b"k"))(row)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_references_resolve_and_every_route_is_there(schema: Schema) -> None:
    made = document(_State(schema))  # type: ignore[arg-type]
    known = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    assert set(references(made)) <= known
    served = {
        (route.path.replace(":path", ""), method.lower())
        for module in (batch, explain, labels, decisions, health, docs, profile, v2)
        for route in module.router.routes
        for method in route.methods
    }
    served.add((predict.PATH, "post"))  # in front of the routes
    documented = {(path, method) for path, operations in made["paths"].items() for method in operations}
    assert documented == served - {("/docs", "get"), ("/openapi.json", "get")}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []
