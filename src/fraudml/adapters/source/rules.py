"""The rules of :mod:`fraudml.events.normalise`, as SQL over whole columns.

Each column becomes two expressions: its value, and in words what is wrong with it (NULL when nothing is). The
common shapes of a value are decided by cheap tests first; only odd ones (white space around it, ``N/A``, a leading
plus) pay for regular expressions. A broken value is marked by NaN, -1 or :data:`BROKEN`, never by NULL, which is
a missing one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fraudml.adapters.source.tables import literal, literals
from fraudml.adapters.source.zones import Zone
from fraudml.errors import DataError
from fraudml.events import normalise as rules
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, LabelColumn, TimeColumn, TimeFormat
from fraudml.events.units import INTEGER_LIMIT, NUMBER_LIMIT

BROKEN = -(2**62)  # a time that cannot be read
LOCAL = 2**61  # added to a local time, whose zone is applied later; no time itself is beyond 2**58
WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip() removes
NO_PROBLEM = "NULL"
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT")
FLOATS = ("FLOAT", "DOUBLE")
LIMIT = f"{INTEGER_LIMIT}::DOUBLE"


class Sql(msgspec.Struct, frozen=True):
    """A column's rule: ``parsed`` over ``s``, the :func:`stripped` column; ``value`` and ``problem`` over ``p``, what
    was parsed. (Stages rather than one expression: DuckDB evaluates what an expression repeats for every row, even
    inside a CASE that no row enters.)
    """

    parsed: str
    value: str
    problem: str = NO_PROBLEM

    def needed(self) -> Sql:
        """The same with a missing value being a problem."""
        return msgspec.structs.replace(self, problem=f"CASE WHEN p IS NULL THEN 'missing' ELSE {self.problem} END")


def text(kind: str) -> Sql:
    """Identifiers and categories."""
    return Sql(_text(kind), "p")


def number(kind: str, *, whole: bool = False) -> Sql:
    """Numbers; with ``whole`` integers."""
    cases = [
        ("isnan(p)", rules.A_NUMBER),
        (f"abs(p) > {NUMBER_LIMIT!r}", rules.WITHIN_LIMIT),
        (f"abs(p) >= {LIMIT} AND abs(p) < 1e19 AND p = trunc(p) AND {_LUHN}", rules.NOT_A_CARD),
    ]
    if whole:
        cases.append((f"p <> trunc(p) OR abs(p) > {LIMIT}", rules.A_WHOLE_NUMBER))
    return Sql(_number(kind), "try_cast(p AS BIGINT)" if whole else "p", _cases(cases))


def amount(column: AmountColumn, kind: str) -> Sql:
    """Money in minor units; the very arithmetic of ``units.to_minor``."""
    base = number(kind)
    minor = _round(f"p * 1e{column.decimals}::DOUBLE")
    limits = [(f"abs(p) >= {LIMIT} OR abs({minor}) > {LIMIT}", rules.WITHIN_MINOR)]
    if not column.allow_negative:
        limits.insert(0, ("p < 0", rules.NOT_NEGATIVE))
    sql = Sql(base.parsed, f"try_cast({minor} AS BIGINT)", f"coalesce({base.problem}, {_cases(limits)})")
    return sql if column.optional else sql.needed()


def boolean(kind: str) -> Sql:
    """0 or 1."""
    if kind == "BOOLEAN":
        return Sql("s::BIGINT", "p")
    return Sql(
        f"CASE WHEN lower(s::VARCHAR) IN {literals(rules.TRUE_WORDS)} THEN 1 "
        f"WHEN lower(s::VARCHAR) IN {literals(rules.FALSE_WORDS)} THEN 0 "
        f"WHEN s IS NOT NULL AND lower(s::VARCHAR) NOT IN {literals(rules.NULL_WORDS)} THEN -1 END",
        "p",
        _cases([("p < 0", rules.A_BOOLEAN)]),
    )


def time(column: TimeColumn | Attribute, kind: str) -> Sql:
    """Times: microseconds UTC, or local ones plus :data:`LOCAL`."""
    if column.format is not TimeFormat.iso:
        return _counted_time(column, kind)
    broken = (f"p = {BROKEN}", rules.A_TIME)
    earliest, words = _earliest(column)
    outside = f"p < {earliest} OR p >= {rules.LATEST_US}"
    is_local = f"p > {LOCAL // 2}"
    if not column.timezone:
        return Sql(_iso_time(kind), "p", _cases([broken, (is_local, rules.WITH_ZONE), (outside, words)]))
    zone = Zone(column.timezone)
    low, high = zone.to_local(earliest), zone.to_local(rules.LATEST_US)
    outside = f"CASE WHEN {is_local} THEN p < {LOCAL + low} OR p >= {LOCAL + high} ELSE {outside} END"
    return Sql(_iso_time(kind), "p", _cases([broken, (outside, words)]))


def verdict(column: LabelColumn, kind: str) -> Sql:
    """True for fraud, false for genuine, NULL while unknown."""
    unknown = literals(rules.NULL_WORDS - {*column.fraud, *column.genuine})
    fraud, genuine = f"p IN {literals(column.fraud)}", f"p IN {literals(column.genuine)}"
    return Sql(
        f"lower({_text(kind)})",
        f"CASE WHEN {fraud} THEN true WHEN {genuine} THEN false END",
        _cases([(f"NOT ({fraud} OR {genuine} OR p IN {unknown})", rules.A_VERDICT)]),
    )


def attribute(column: Attribute, kind: str) -> Sql:
    """The rule of an attribute's type."""
    match column.type:
        case AttributeType.category:
            return text(kind)
        case AttributeType.boolean:
            return boolean(kind)
        case AttributeType.time:
            return time(column, kind)
    return number(kind, whole=column.type is AttributeType.integer)


def plain_type(column: str, kind: str) -> str:
    """The type that the rules know for a DuckDB type; raises DataError for nested ones."""
    if kind.startswith("DECIMAL"):
        return "HUGEINT" if kind.endswith(",0)") else "DOUBLE"
    if kind.startswith("ENUM") or kind in {"UUID", "BLOB", "TIME", "INTERVAL"}:
        return "VARCHAR"
    if kind == "UHUGEINT":
        return "HUGEINT"
    if kind.endswith("[]") or kind.startswith(("STRUCT", "MAP", "UNION", "LIST", "VARIANT")):
        raise DataError(f"column {column!r} holds nested values ({kind.partition('(')[0]}); flatten it first")
    return kind


def _cases(cases: Iterable[tuple[str, str]]) -> str:
    return "CASE " + " ".join(f"WHEN {when} THEN {literal(words)}" for when, words in cases) + " END"


def _round(value: str) -> str:
    """Halves away from zero, of an IEEE double."""
    return f"sign({value}) * floor(abs({value}) + 0.5::DOUBLE)"


# The Luhn sum of the digits of p: every second digit from the right doubled, its own digits added.
_LUHN = (
    "CASE WHEN true THEN list_sum(list_transform(string_split(reverse(abs(p)::HUGEINT::VARCHAR), ''), "
    "lambda d, i: CASE WHEN i % 2 = 1 THEN d::INTEGER ELSE (2 * d::INTEGER) // 10 + (2 * d::INTEGER) % 10 END)) "
    "% 10 = 0 END"
)


def stripped(kind: str) -> str:
    """The raw column ``r`` as the rules read it: text without white space around it, NULL when nothing is left."""
    if kind != "VARCHAR":
        return "r"
    # Only bytes up to the blank or beyond ASCII, at either end, can be white space: trim itself is slow.
    odd = "r < '!' OR r >= chr(127) OR right(r, 1) < '!' OR right(r, 1) >= chr(127)"
    return f"CASE WHEN {odd} THEN nullif(trim(r, {literal(WHITE_SPACE)}), '') ELSE r END"


def as_text(kind: str, column: str) -> str:
    """What an identifier or category of this (quoted) column is read as."""
    return f"(SELECT {_text(kind)} FROM (SELECT {stripped(kind)} AS s FROM (SELECT {column} AS r)))"  # noqa: S608 - quoted


def _text(kind: str) -> str:
    if kind == "BOOLEAN":
        return "CASE s WHEN true THEN 'true' WHEN false THEN 'false' END"
    if kind in FLOATS:
        whole = f"s = trunc(s) AND abs(s) < {2.0**63!r}::DOUBLE"
        return f"CASE WHEN isnan(s) THEN NULL WHEN {whole} THEN s::BIGINT::VARCHAR ELSE s::VARCHAR END"
    return "s::VARCHAR"


def _number(kind: str) -> str:
    if kind in INTEGERS:
        return "s::DOUBLE"
    if kind in FLOATS:
        return "CASE WHEN NOT isnan(s) THEN s::DOUBLE END"
    if kind != "VARCHAR":  # a date is no number
        return "CASE WHEN s IS NOT NULL THEN 'nan'::DOUBLE END"
    fast = "try_cast(s AS DOUBLE)"
    odd = f"{fast} IS NULL OR NOT isfinite({fast}) OR s < ',' OR contains(s, '_')"
    slow = (
        f"CASE WHEN lower(s) IN {literals(rules.NULL_WORDS)} THEN NULL "
        f"WHEN regexp_full_match(s, {literal(rules.NUMBER)}) THEN coalesce({fast}, 'inf'::DOUBLE) "
        "ELSE 'nan'::DOUBLE END"
    )
    return f"CASE WHEN s IS NULL THEN NULL WHEN {odd} THEN {slow} ELSE {fast} END"


def _counted_time(column: TimeColumn | Attribute, kind: str) -> Sql:
    start = TimeColumn("", column.format, column.timezone, column.start).start_us() if column.format.needs_start else 0
    counted = _round(f"p * {rules.TIME_SCALE[column.format]}::DOUBLE")
    moment = f"({start} + try_cast({counted} AS BIGINT))"
    earliest, words = _earliest(column)
    cases = [
        ("isnan(p)", rules.A_NUMBER),
        (f"abs(p) > {NUMBER_LIMIT!r}", rules.WITHIN_LIMIT),
        (f"abs({counted}) > 1e17 OR {moment} < {earliest} OR {moment} >= {rules.LATEST_US}", words),
    ]
    return Sql(_number(kind), f"CASE WHEN abs({counted}) <= 1e17 THEN {moment} END", _cases(cases))


def _earliest(column: TimeColumn | Attribute) -> tuple[int, str]:
    if isinstance(column, Attribute):
        return rules.EARLIEST_ATTRIBUTE_US, rules.WITHIN_CENTURIES
    return 0, rules.WITHIN_YEARS


def _iso_time(kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"CASE WHEN s IS NOT NULL THEN CASE WHEN isfinite(s) THEN epoch_us(s) ELSE {BROKEN} END END"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        micros = f"CASE WHEN isfinite(s::TIMESTAMP) THEN {LOCAL} + epoch_us(s::TIMESTAMP) ELSE {BROKEN} END"
        return f"CASE WHEN s IS NOT NULL THEN {micros} END"
    if kind != "VARCHAR":
        return f"CASE WHEN s IS NOT NULL THEN {BROKEN} END"
    return (
        "CASE WHEN s IS NULL THEN NULL "
        f"WHEN regexp_full_match(s, {literal(rules.NAIVE_TIME)}) "
        f"THEN coalesce({LOCAL} + epoch_us(try_cast(s AS TIMESTAMP)), {BROKEN}) "
        f"WHEN regexp_full_match(s, {literal(rules.ZONED_TIME)}) "
        f"THEN coalesce(epoch_us(try_cast(s AS TIMESTAMPTZ)), {BROKEN}) "
        f"WHEN lower(s) IN {literals(rules.NULL_WORDS)} THEN NULL ELSE {BROKEN} END"
    )
