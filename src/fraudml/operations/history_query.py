"""The SQL that makes a history to train on of exported files: what was really seen, and what became known of it."""

# ruff: noqa: S608 - SQL is put together here from quoted names and literals
from __future__ import annotations

from collections.abc import Iterator

from fraudml.decisions.log import audit_schema
from fraudml.decisions.warehouse import DECISIONS, LABELS, exported_schemas, names_beside_day
from fraudml.errors import ConfigError
from fraudml.events.schema import (
    AMOUNT,
    EVENT_TIME,
    KNOWN_AT,
    TRANSACTION_ID,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)

# How many microseconds are one of what a column counts.
COUNTED_US = {
    TimeFormat.epoch_s: 1_000_000,
    TimeFormat.epoch_ms: 1_000,
    TimeFormat.epoch_us: 1,
    TimeFormat.seconds_from: 1_000_000,
    TimeFormat.hours_from: 3_600_000_000,
    TimeFormat.days_from: 86_400_000_000,
}


def history_query(schema: Schema, place: str) -> str:
    """A ``SELECT`` of DuckDB over the files below a place, whose columns are those that the schema reads.

    A transaction's label is its first report, as online state has counted it. Raises ``ConfigError`` unless the schema
    says where it is written when a label became known: a label that counted from ``delay`` after the event on, though
    it was reported later, would be a look into the future.
    """
    label = schema.label
    if label is None or label.known_at is None:
        raise ConfigError(
            "say in fraudml.yaml where it is written when a label became known: "
            "label: {column: is_fraud, known_at: {column: reported_at}}"
        )
    columns = dict([*_columns(schema), *_label(label, label.known_at)][::-1])  # of two with one name the first
    selected = ",\n".join(f"  {value} AS {_name(column)}" for column, value in reversed(columns.items()))
    return (
        f"SELECT\n{selected}\n"
        f"FROM {_files(place, DECISIONS)} AS d\n"
        f"LEFT JOIN (\n"
        f"  SELECT {TRANSACTION_ID}, arg_min(is_fraud, arrival) AS is_fraud, "
        f"arg_min({KNOWN_AT}, arrival) AS {KNOWN_AT}\n"
        f"  FROM {_files(place, LABELS)}\n"
        f"  GROUP BY {TRANSACTION_ID}\n"
        f") AS l ON l.{TRANSACTION_ID} = d.{TRANSACTION_ID}\n"
        f"ORDER BY d.arrival"
    )


def _columns(schema: Schema) -> Iterator[tuple[str, str]]:
    """The transaction's columns as the schema calls them, and what each is in the files."""
    exported = names_beside_day(exported_schemas(schema)[DECISIONS].names)
    names = {name: f"d.{_name(plain)}" for name, plain in zip(audit_schema(schema).names, exported, strict=True)}
    yield schema.id_column, names[TRANSACTION_ID]
    yield schema.event_time.column, _time(names[EVENT_TIME], schema.event_time)
    for entity, column in schema.entities.items():
        yield column, names[entity]
    if schema.amount is not None:
        unit = f"{10**-schema.amount.decimals:.{schema.amount.decimals}f}"  # a decimal literal: exact
        yield schema.amount.column, f"{names[AMOUNT]} * {unit}" if schema.amount.decimals else names[AMOUNT]
    for name, attribute in schema.attributes.items():
        column = schema.attribute_column(name)
        if attribute.type is AttributeType.time:
            written = TimeColumn(column, attribute.format, attribute.timezone, attribute.start)
            yield column, _time(names[name], written)
        else:
            yield column, names[name]


def _label(label: LabelColumn, known_at: TimeColumn) -> Iterator[tuple[str, str]]:
    fraud, genuine = _text(label.fraud[0]), _text(label.genuine[0])
    yield label.column, f"CASE WHEN l.is_fraud THEN {fraud} WHEN NOT l.is_fraud THEN {genuine} END"
    yield known_at.column, _time(f"l.{KNOWN_AT}", known_at)


def _time(value: str, written: TimeColumn) -> str:
    """Microseconds as the schema has the column written."""
    if written.format is TimeFormat.iso:
        return f"make_timestamp({value}) AT TIME ZONE 'UTC'"
    since = f"({value} - {written.start_us()})" if written.format.needs_start else value
    counted = COUNTED_US[written.format]
    return since if counted == 1 else f"{since} / {counted}"


def _files(place: str, table: str) -> str:
    pattern = _text(f"{place}/{table}/*/*.parquet")
    return f"read_parquet({pattern}, hive_partitioning = true, union_by_name = true)"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
