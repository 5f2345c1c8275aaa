"""Reading requests fast agrees with reading them slowly: strict JSON, the normaliser, and what only requests refuse."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.errors import FieldProblem, RowError
from fraudml.events.cards import CardHasher
from fraudml.events.decoder import TooManyItemsError, TransactionDecoder
from fraudml.events.example import example
from fraudml.events.normalise import TIME_SCALE, Normaliser
from fraudml.events.schema import (
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)
from fraudml.events.strict_json import decode_object
from fraudml.events.transaction import Transaction

HASHER = CardHasher(b"key")
AHEAD_S = 86_400.0

COLUMNS = ["a", "b", "c", "d", "e", "x:y", "é ü", 'q"q', ""]
columns = st.sampled_from(COLUMNS)
# usual schemas have a column for each meaning; others share them, and have odd names
formats = st.sampled_from(list(TimeFormat))
zones = st.sampled_from([None, "Europe/Berlin"])


def start_of(chosen: TimeFormat) -> str | None:
    return "2024-01-01" if chosen.needs_start else None


def time_columns(name: st.SearchStrategy[str]) -> st.SearchStrategy[TimeColumn]:
    return st.builds(lambda n, f, z: TimeColumn(n, f, z, start_of(f)), name, formats, zones)


def attributes(name: st.SearchStrategy[str]) -> st.SearchStrategy[Attribute]:
    kinds = st.sampled_from(list(AttributeType))
    return st.builds(lambda t, n, f, z: Attribute(t, n, (), f, z, start_of(f)), kinds, name, formats, zones)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    if draw(st.integers(0, 3)):  # each column once
        rest = iter(draw(st.permutations([f"col {number}" for number in range(12)])))
        name: st.SearchStrategy[str] = st.builds(lambda: next(rest))
    else:
        name = columns
    return Schema(
        draw(time_columns(name)),
        draw(st.none() | name),
        {f"entity{number}": draw(name) for number in range(draw(st.integers(0, 2)))},
        draw(
            st.none()
            | st.builds(AmountColumn, name, st.sampled_from([0, 2, 8]), st.just("XXX"), st.booleans(), st.booleans())
        ),
        {f"attribute{number}": draw(attributes(name)) for number in range(draw(st.integers(0, 4)))},
        draw(st.none() | st.builds(LabelColumn, name, known_at=st.none() | time_columns(name))),
        tuple(draw(st.lists(name, max_size=1))),
    )


def iso_texts() -> st.SearchStrategy[str]:
    return st.builds(
        "{}{}{}{}{}".format,
        st.sampled_from(["2024-05-01", "1970-01-01", "2199-12-31", "2020-02-29", "1899-12-31", "2023-02-29"]),
        st.sampled_from(["T", " ", "t", "T "]),
        st.sampled_from(["12:30:07", "00:00:00", "23:59:60", "24:00:00", "12:30", "23:59:59", "12:30:07", "1:30:07"]),
        st.sampled_from(["", "", "", ".5", ".000", ".123456", ".123456789", ",5", ".", ".1234567890"]),
        st.sampled_from(["Z", "Z", "Z", "+00:00", "-05:30", "+0530", "+05", " UTC", "", "z", "+24:00", "-00:00"]),
    )


HOSTILE = [
    *["null", "true", "false", "0", "1", "-1", "-0", "-0.0", "0.0", "1.0", "1e3", "1E5", "1e400", "-1e400", "1e-400"],
    *["1e30", "1.0000001e30", "1e300", "999999999999", "1000000000000", "-1000000000000", "999999999999.5", "0.005"],
    *["9007199254740993", "9223372036854775808", "18446744073709551616", "1" * 400, "4111111111111111", "2.5", "1.005"],
    *["1714566607", "1714566607.5", "1714566607000", "1714566607000000", "4000000000", "-1714566607", "10000.01"],
    *['""', '" "', '"x"', '" x "', '"nan"', '"NULL"', '"n/a"', '"1.5"', '" 2 "', '"1_0"', '"1e5"', '"\u0663"', '"yes"'],
    *[
        '"4111 1111 1111 1111"',
        '"4111-1111-1111-1111"',
        '"4111111111111112"',
        '"thirteen char"',
        '"' + "l" * 1001 + '"',
    ],
    *['"\\u0031"', '"\\ud800"', '"\\t"', '"a\\":b"', '"a:b"', '":"', '"\\u003a"', '"\\\\"', '"é\u2003"', '"\x1f"'],
    *['"2024-05-01"', '"2024-W18-3T12:30:07Z"', '"20240501T123007.123Z"', '"2024-05-01T12\\u003a30:07Z"'],
    *['"2024-05-01T12:30:07Z"', '"\u0662024-05-01T12:30:07Z"', '"2024-05-01T12:30:0\u0667Z"', "[]", "{}", '{"a":1}'],
    *['{"a":1,"a":2}', '[{"b":1,"b":1}]', "NaN", "01", "1.", ".5", "+1", "nul", "'x'", '"', "[" * 600 + "]" * 600],
]


def usual(schema: Schema) -> dict[str, st.SearchStrategy[str]]:
    """For each column of a schema, JSON texts that mostly suit it."""
    texts = st.sampled_from(['"c1"', '"customer-17"', "17", '"4111111111111111"', '"Zürich"', '" x"'])
    numbers = st.floats(0, 1e6).map(repr) | st.integers(-100, 10**13).map(str)
    minutes = st.integers(0, 59)
    whole = st.integers(-9, 99).map(str) | st.integers(-(10**12) - 1, 10**12 + 1).map(str)

    def times(column: TimeColumn | Attribute) -> st.SearchStrategy[str]:
        if column.format is TimeFormat.iso:
            seconds = st.builds(
                '"2024-05-01T12:{:02}:{:02}{}"'.format, minutes, minutes, st.sampled_from(["Z", "+00:00"])
            )
            return seconds | seconds | iso_texts().map(json.dumps)
        if column.format.needs_start:
            return st.integers(0, 500).map(str) | st.floats(-10, 1e5).map(repr)
        scale = 1_000_000 // TIME_SCALE[column.format]
        return st.integers(0, 1_720_000_000 * scale).map(str) | st.floats(0, 2e9 * scale).map(repr)

    found: dict[str, st.SearchStrategy[str]] = dict.fromkeys([schema.id_column, *schema.entities.values()], texts)
    for attribute, column in ((a, schema.attribute_column(n)) for n, a in schema.attributes.items()):
        by_type = {
            AttributeType.number: numbers,
            AttributeType.integer: whole,
            AttributeType.boolean: st.sampled_from(["true", "false", "0", "1"]),
            AttributeType.category: texts,
            AttributeType.time: times(attribute),
        }
        found[column] = by_type[attribute.type]
    if schema.amount is not None:
        found[schema.amount.column] = st.floats(0, 1e5).map(repr) | numbers | st.sampled_from(['"12.34"', '"nan"'])
    found[schema.event_time.column] = times(schema.event_time)
    return found


@st.composite
def bodies(draw: st.DrawFn, schema: Schema) -> str:
    """A JSON text that is nearly an object for the schema: mostly well-formed, sometimes hostile in a place or two."""
    pairs = [(name, draw(texts)) for name, texts in usual(schema).items()]
    if draw(st.booleans()):
        extra = [*schema.ignore, *([schema.label.column] if schema.label else []), *COLUMNS, "unknown"]
        for _ in range(draw(st.integers(1, 2))):
            change = draw(st.sampled_from(["value", "drop", "add", "repeat", "escape"]))
            place = draw(st.integers(0, max(0, len(pairs) - 1)))
            if change == "add" or not pairs:
                pairs.insert(place, (draw(st.sampled_from(extra)), draw(st.sampled_from(HOSTILE))))
            elif change == "value":
                pairs[place] = (pairs[place][0], draw(st.sampled_from(HOSTILE)))
            elif change == "drop":
                del pairs[place]
            else:
                pairs.append((pairs[place][0] if change == "repeat" else "\\", draw(st.sampled_from(HOSTILE))))
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ", "), (" : ", " ,\n"), ("\t:", ",")]))
    plain = draw(st.booleans())
    return "{" + comma.join(f"{json.dumps(n, ensure_ascii=plain)}{colon}{v}" for n, v in pairs) + "}"


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes, one time in four with one of them changed."""
    if draw(st.integers(0, 3)):
        return raw
    place = draw(st.integers(0, len(raw)))
    middle = draw(
        st.sampled_from([b"", b'"', b":", b"\\", b"}", b"]", b",", b" ", b"\xff", b"0", b"{}", b"\xef\xbb\xbf"])
    )
    return raw[:place] + middle + raw[place + draw(st.integers(0, 1)) :]


def slowly(schema: Schema, row: Mapping[str, Any], longest: int) -> Transaction:
    """The definition: the normaliser, then what a request may not hold beyond what a file may."""
    event = Normaliser(schema, HASHER)(row)
    problems = []
    if event.event_time_us > time.time_ns() // 1_000 + AHEAD_S * 1_000_000:
        expected = f"expected a time at most {AHEAD_S:g} s ahead of this server's clock"
        problems.append(FieldProblem(schema.event_time.column, expected))
    names = (schema.id_column, *schema.entities.values(), *map(schema.attribute_column, schema.attributes))
    for name, value in zip(names, (event.transaction_id, *event.entities, *event.attributes), strict=True):
        if isinstance(value, str) and len(value) > longest:
            problems.append(FieldProblem(name, f"expected at most {longest} characters"))
    if problems:
        raise RowError(problems)
    return event


def slow_item(schema: Schema, item: Any, longest: int) -> Transaction:
    if not isinstance(item, dict):
        raise RowError([FieldProblem("", "expected a JSON object")])
    return slowly(schema, item, longest)


def outcome(read: Any, *arguments: Any) -> str:
    """What was read, with the types of its values, or what was wrong with it."""
    try:
        return repr(read(*arguments))
    except RowError as error:
        return repr(error.problems)


def decoder_of(schema: Schema, longest: int = 1_000) -> TransactionDecoder:
    return TransactionDecoder(schema, HASHER, max_ahead_s=AHEAD_S, longest_text=longest)


@given(st.data())
def test_one_transaction_is_what_the_slow_way_makes_of_it(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    longest = data.draw(st.sampled_from([1_000, 1_000, 20, 5]))
    decoder = decoder_of(schema, longest)
    for _ in range(data.draw(st.integers(1, 3))):
        raw = data.draw(mutated(data.draw(bodies(schema)).encode()))
        expected = outcome(lambda body: slowly(schema, decode_object(body), longest), raw)
        assert outcome(decoder.decode, raw) == expected
        try:
            row = decode_object(raw)
        except RowError:
            continue
        assert outcome(decoder.normalise, row) == expected


@given(st.data())
def test_each_item_of_a_batch_is_what_the_slow_way_makes_of_it(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    decoder = decoder_of(schema)
    odd = st.sampled_from(["1", "null", "[]", "{}", '"x"'])
    often = data.draw(st.sampled_from([0, 0, 1]))
    items = [
        data.draw(odd if often and data.draw(st.booleans()) else bodies(schema))
        for _ in range(data.draw(st.integers(0, 4)))
    ]
    text = data.draw(
        st.sampled_from(
            [
                *['{"transactions":[%s]}'] * 4,
                *['{"transactions" : [%s], "other": 1}', '{"transactions":[%s],"transactions":[]}', "[%s]"],
                *[
                    '{"transactions":{"a":[%s]}}',
                    '{"Transactions":[%s]}',
                    '{"transactions":[%s],"\\u0074ransactions":1}',
                ],
            ]
        )
    )
    raw = data.draw(mutated((text % ",".join(items)).encode()))

    def slow(body: bytes) -> list[str]:
        document = decode_object(body)
        rows = document.get("transactions")
        problems = [
            FieldProblem(name, "unknown field; a batch has only 'transactions'")
            for name in sorted(document.keys() - {"transactions"})
        ]
        if not isinstance(rows, list):
            problems.append(FieldProblem("transactions", "expected a list of transactions"))
        if problems:
            raise RowError(problems)
        return [outcome(slow_item, schema, row, 1_000) for row in rows or []]

    def fast(body: bytes) -> list[str]:
        return [repr(item.problems if isinstance(item, RowError) else item) for item in decoder.decode_batch(body)]

    assert outcome(fast, raw) == outcome(slow, raw)


USUAL = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "shop": "shop"},
    AmountColumn("amount"),
    {
        "n": Attribute(AttributeType.number),
        "i": Attribute(AttributeType.integer),
        "b": Attribute(AttributeType.boolean),
        "shop_is": Attribute(AttributeType.category, "shop"),
        "born": Attribute(AttributeType.time),
    },
    LabelColumn("fraud"),
    ("note",),
)


@pytest.fixture
def no_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("went the slow way")

    monkeypatch.setattr(Normaliser, "__call__", refuse)
    monkeypatch.setattr("fraudml.events.decoder.decode_object", refuse)


@pytest.mark.usefixtures("no_slow_way")
@pytest.mark.parametrize("form", list(TimeFormat))
def test_the_usual_form_goes_the_quick_way(form: TimeFormat) -> None:
    schema = Schema(
        TimeColumn("time", form, None, start_of(form)), "id", USUAL.entities, USUAL.amount, USUAL.attributes
    )
    row = {**example(schema), **({"time": 7} if form.needs_start else {})}
    raw = json.dumps(row).encode()
    event = decoder_of(schema).decode(raw)
    assert event.transaction_id == "example-1"
    assert event.amount_minor == 4_990
    assert decoder_of(schema).normalise(row) == event
    assert decoder_of(schema).decode_batch(b'{"transactions":[%s,%s]}' % (raw, raw)) == [event, event]


@pytest.mark.usefixtures("no_slow_way")
@pytest.mark.parametrize(
    "change",
    [
        {"time": "2024-05-01T12:30:00.123+02:00"},
        {"cust": 17, "i": None, "b": None, "born": "1990-01-31 00:00:00Z"},
        {"amount": "12.34", "cust": "4111 1111 1111 1111", "shop": "a shop: with a long name"},
        {"shop": 'Zürich \\ "west" \n', "fraud": 0, "note": "seen twice"},
    ],
    ids=[
        "fraction and offset",
        "whole-number key and nulls",
        "amount as text, card and colon",
        "escapes and unread fields",
    ],
)
def test_so_do_its_variants(change: dict[str, Any]) -> None:
    decoder_of(USUAL).decode(json.dumps({**example(USUAL), **change}).encode())


def test_an_escaped_colon_in_a_time_hides_no_repeated_name() -> None:
    raw = json.dumps(example(USUAL)).replace("14:30", "14\\u003a30", 1)
    assert decoder_of(USUAL).decode(raw.encode()).transaction_id == "example-1"
    raw = raw.replace("{", '{"amount": 1, ')
    with pytest.raises(RowError, match="amount: given twice"):
        decoder_of(USUAL).decode(raw.encode())
    with pytest.raises(RowError, match="amount: given twice"):
        decoder_of(USUAL).decode_batch(b'{"transactions":[%s]}' % raw.encode())


def test_one_wrong_item_does_not_stop_the_others() -> None:
    row = example(USUAL)
    rows = [
        row,
        {**row, "amount": -1},
        {**row, "amount": "7.5"},
        {**row, "what": 1},
        7,
        {**row, "time": "2190-01-01T00:00:00Z"},
    ]
    first, second, third, *others = decoder_of(USUAL).decode_batch(json.dumps({"transactions": rows}).encode())
    assert isinstance(first, Transaction)
    assert isinstance(third, Transaction)
    assert third.amount_minor == 750
    told = [[problem.path for problem in item.problems] for item in (second, *others) if isinstance(item, RowError)]
    assert told == [["amount"], ["what"], [""], ["time"]]


@pytest.mark.parametrize("item", ["{}", "7"])
def test_too_many_items_are_refused_before_they_are_read(item: str) -> None:
    raw = f'{{"transactions":[{item},{item},{item}]}}'.encode()
    with pytest.raises(TooManyItemsError, match="may have 2 transactions, not 3; send several") as caught:
        decoder_of(USUAL).decode_batch(raw, most=2)
    assert (caught.value.count, caught.value.most) == (3, 2)
    assert len(decoder_of(USUAL).decode_batch(raw, most=3)) == 3


def test_numbers_that_no_json_holds_are_read_as_the_normaliser_does() -> None:
    for value in (float("nan"), float("inf"), 10**400, True):
        row = {**example(USUAL), "amount": value, "n": value}
        assert outcome(decoder_of(USUAL).normalise, row) == outcome(slowly, USUAL, row, 1_000)
