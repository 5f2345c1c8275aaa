"""One file's query, and what is left to do to each of its batches."""

# ruff: noqa: S608 - SQL is put together here from quoted names and literals, see tables.py
from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.adapters.source import rules, tables
from fraudml.adapters.source.rules import LOCAL, NO_PROBLEM, Sql
from fraudml.adapters.source.tables import Table, literal
from fraudml.adapters.source.zones import Zone
from fraudml.events.cards import CardHasher
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, AttributeType, Schema
from fraudml.events.source import arrow_schema

PROBLEM = "problem"  # the query's own columns; what it reads is called v0, v1, ...
HASH = "id_hash"
Mask = NDArray[np.bool_]
# Texts that may be card numbers; the Luhn check follows on their distinct values.
_CARD_SHAPE = "^[0-9][0-9 -]{11,35}[0-9]$"


class Batches:
    """Reads one file: ``query`` gives raw batches; ``check`` and ``finish`` make them batches of the normal form."""

    def __init__(self, table: Table, schema: Schema, hasher: CardHasher, stem: str) -> None:
        self.table = table
        self._schema = schema
        self._hasher = hasher
        self._stem = stem
        self._tokens: dict[str, str] = {}
        self._output = arrow_schema(schema)
        label = schema.label
        self._labelled = label is not None and label.column in table.columns
        self._delay_us = label.delay_us if label is not None else 0
        self._columns = self._rules()
        self.used = list(dict.fromkeys(column for column, _, _ in self._columns))
        self._zones = self._time_zones()
        self._texts = [
            field.name for field in self._output if field.type == pa.string() and field.name != TRANSACTION_ID
        ]
        if schema.transaction_id is not None:
            self._texts.insert(0, TRANSACTION_ID)
        self.query = self._query()

    def check(self, raw: pa.RecordBatch) -> tuple[Mask, dict[int, str]]:
        """Which rows are sound ``[n]``, and the problems of the others by their position."""
        problem = raw.column(PROBLEM)
        if problem.null_count == raw.num_rows:
            return np.ones(raw.num_rows, dtype=bool), {}
        broken = problem.is_valid().to_numpy(zero_copy_only=False)
        at = np.flatnonzero(broken)
        return ~broken, dict(zip(at.tolist(), problem.take(pa.array(at)).to_pylist(), strict=True))

    def id_hashes(self, raw: pa.RecordBatch, good: Mask) -> NDArray[np.uint64]:
        """Hashes of the ids of the sound rows; two ways of writing one card number have the same."""
        hashes: NDArray[np.uint64] = raw.column(HASH).to_numpy(zero_copy_only=False)
        ids = raw.column("v0")
        cards = self._cards(ids)
        if len(cards):
            hashes = hashes.copy()
            tokens = self._hashed(ids.take(cards)).to_pylist()
            hashes[cards.to_numpy()] = [int(token[-16:], 16) for token in tokens]
        return hashes[good]

    def finish(self, raw: pa.RecordBatch, first: int, good: Mask) -> pa.RecordBatch:
        """The sound rows in normal form; ``first`` is the row number of the batch's first row."""
        numbers = None
        if not good.all():
            numbers = np.flatnonzero(good)
            raw = raw.filter(pa.array(good))
        columns = {name: raw.column(f"v{i}") for i, (_, name, _) in enumerate(self._columns)}
        for name, zone in self._zones.items():
            columns[name] = _to_utc(columns[name], zone)
        for name in self._texts:
            columns[name] = self._without_cards(columns[name])
        if self._schema.transaction_id is None:
            rows = first + 1 + (numbers if numbers is not None else np.arange(raw.num_rows))
            columns[TRANSACTION_ID] = pc.binary_join_element_wise(self._stem, pa.array(rows).cast(pa.string()), ":")
        columns[KNOWN_AT] = self._known_at(columns)
        arrays = [
            columns[field.name] if field.name in columns else pa.nulls(raw.num_rows, field.type)
            for field in self._output
        ]
        return pa.record_batch([a.cast(f.type) for a, f in zip(arrays, self._output, strict=True)], schema=self._output)

    def _rules(self) -> list[tuple[str, str, Sql]]:
        """(column of the file, name in the normal form, rule) of everything that is read."""
        schema = self._schema
        label = schema.label
        wanted = [
            *([schema.transaction_id] if schema.transaction_id is not None else []),
            schema.event_time.column,
            *schema.entities.values(),
            *([schema.amount.column] if schema.amount is not None else []),
            *(schema.attribute_column(name) for name in schema.attributes),
            *([label.known_at.column] if self._labelled and label is not None and label.known_at is not None else []),
        ]
        tables.require(self.table, wanted)

        def kind(column: str) -> str:
            return rules.plain_type(column, self.table.columns[column])

        time = schema.event_time
        found = [(time.column, EVENT_TIME, rules.time(time, kind(time.column)).needed())]
        if schema.transaction_id is not None:
            found.insert(0, (schema.transaction_id, TRANSACTION_ID, rules.text(kind(schema.transaction_id)).needed()))
        found += [(column, name, rules.text(kind(column))) for name, column in schema.entities.items()]
        if schema.amount is not None:
            found.append(
                (schema.amount.column, "amount_minor", rules.amount(schema.amount, kind(schema.amount.column)))
            )
        for name, attribute in schema.attributes.items():
            column = schema.attribute_column(name)
            found.append((column, name, rules.attribute(attribute, kind(column))))
        if self._labelled and label is not None:
            found.append((label.column, IS_FRAUD, rules.verdict(label, kind(label.column))))
            if label.known_at is not None:
                found.append((label.known_at.column, KNOWN_AT, rules.time(label.known_at, kind(label.known_at.column))))
        return found

    def _query(self) -> str:
        """Parse every column, judge what was parsed, and say in words what is wrong with a row."""
        stripped, parsed, values, problems, outputs = [], [], [], [], []
        for i, (column, _, sql) in enumerate(self._columns):
            raw = rules.stripped(rules.plain_type(column, self.table.columns[column]))
            stripped.append(f"{_over(raw, 'r', tables.name(column))} AS s{i}")
            parsed.append(f"{_over(sql.parsed, 's', f's{i}')} AS p{i}")
            values.append(f"{_over(sql.value, 'p', f'p{i}')} AS v{i}")
            outputs.append(f"v{i}")
            if sql.problem != NO_PROBLEM:
                values.append(f"{_over(sql.problem, 'p', f'p{i}')} AS b{i}")
                problems.append((f"b{i}", column))
        said = ", ".join(f"{literal(column + ': ')} || {problem}" for problem, column in problems)
        any_problem = f"coalesce({', '.join(problem for problem, _ in problems)}) IS NOT NULL"
        if self._schema.transaction_id is not None:
            outputs.append(f"hash(v0) AS {HASH}")
        return (
            f"SELECT {', '.join(outputs)}, CASE WHEN {any_problem} THEN concat_ws('; ', {said}) END AS {PROBLEM} "
            f"FROM (SELECT {', '.join(values)} FROM (SELECT {', '.join(parsed)} "
            f"FROM (SELECT {', '.join(stripped)} FROM {self.table.scan})))"
        )

    def _time_zones(self) -> dict[str, Zone]:
        """The zones of the columns that may hold local times."""
        schema = self._schema
        named = {EVENT_TIME: schema.event_time.timezone}
        for name, attribute in schema.attributes.items():
            if attribute.type is AttributeType.time:
                named[name] = attribute.timezone
        if self._labelled and schema.label is not None and schema.label.known_at is not None:
            named[KNOWN_AT] = schema.label.known_at.timezone
        return {name: Zone(zone) for name, zone in named.items() if zone is not None}

    def _known_at(self, columns: dict[str, pa.Array]) -> pa.Array:
        """When each label was known: as reported, or the delay after the event; never before the event itself."""
        event_time = columns[EVENT_TIME]
        if not self._labelled:
            return pa.nulls(len(event_time), pa.int64())
        known = pc.add(event_time, self._delay_us)
        if KNOWN_AT in columns:
            known = pc.coalesce(columns[KNOWN_AT], known)
        return pc.if_else(columns[IS_FRAUD].is_valid(), pc.max_element_wise(known, event_time), None)

    def _without_cards(self, texts: pa.Array) -> pa.Array:
        cards = self._cards(texts)
        if not len(cards):
            return texts
        mask = np.zeros(len(texts), dtype=bool)
        mask[cards.to_numpy()] = True
        return pc.replace_with_mask(texts, pa.array(mask), self._hashed(texts.take(cards)))

    def _cards(self, texts: pa.Array) -> pa.Array:
        """Positions of the texts that are card numbers."""
        long = pc.indices_nonzero(pc.greater_equal(pc.binary_length(texts), 13))
        if not len(long):
            return long
        shaped = long.filter(pc.match_substring_regex(texts.take(long), _CARD_SHAPE))
        if not len(shaped):
            return shaped
        encoded = texts.take(shaped).dictionary_encode()
        is_card = [self._token(text) != text for text in encoded.dictionary.to_pylist()]
        return shaped.filter(pa.array(is_card, pa.bool_()).take(encoded.indices))

    def _hashed(self, texts: pa.Array) -> pa.Array:
        encoded = texts.dictionary_encode()
        tokens = [self._token(text) for text in encoded.dictionary.to_pylist()]
        return pa.array(tokens, pa.string()).take(encoded.indices)

    def _token(self, text: str) -> str:
        token = self._tokens.get(text)
        if token is None:
            token = self._hasher(text)
            if len(self._tokens) < 1_000_000:  # a bound on memory, not on what is hashed
                self._tokens[text] = token
        return token


def _over(sql: str, variable: str, column: str) -> str:
    """The rule with its one-letter variable replaced by a column; literals are left alone."""
    parts = sql.split("'")
    parts[::2] = [re.sub(rf"\b{variable}\b", lambda _: column, part) for part in parts[::2]]
    return "'".join(parts)


def _to_utc(times: pa.Array, zone: Zone) -> pa.Array:
    values = times.fill_null(0).to_numpy(zero_copy_only=False)
    local = values > LOCAL // 2
    if not local.any():
        return times
    values = np.where(local, zone.to_utc(values - LOCAL), values)
    return pa.array(values, mask=times.is_null().to_numpy(zero_copy_only=False))
