"""Facts about the columns of an unknown file or table, by DuckDB: what :mod:`fraudml.inference` guesses from."""

# ruff: noqa: S608 - SQL is put together here from quoted names and literals, see tables.py
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import msgspec

from fraudml.adapters.source import rules, tables
from fraudml.adapters.source.relation import RAW, Relation, table_of
from fraudml.adapters.source.tables import Table, literal, literals, name
from fraudml.errors import DataError
from fraudml.events import normalise
from fraudml.events.cards import looks_like_card
from fraudml.events.profile import ColumnProfile, TableProfile
from fraudml.events.schema import LabelColumn

SAMPLE_ROWS = 200_000
SAMPLE_CELLS = 4_000_000  # wide files: fewer rows
TOP = 200


def profile(paths: str | Path | Iterable[str | Path], *, threads: int = 1, memory_limit: str = "4GB") -> TableProfile:
    """Look at a file, a glob or a list of files; raises DataError when they cannot be read as one table.

    Counts rows exactly, and looks at every column on an evenly spread sample of at most 200,000 rows.
    """
    named = (str(paths),) if isinstance(paths, (str, Path)) else tuple(map(str, paths))
    found = tables.find(named)
    with _reading(str(found[0]), threads, memory_limit) as connection:
        described = [tables.describe(path, connection) for path in found]
        for table in described[1:]:
            tables.require(table, list(described[0].columns))
        scan = _union(described)
        rows = int(connection.sql(f"SELECT count(*) FROM {scan}").fetchall()[0][0])
        if rows == 0:
            raise DataError(f"{found[0]} has no rows")
        sampled = _sample(connection, scan, rows, len(described[0].columns))
        columns = [_column(connection, column, kind, sampled) for column, kind in described[0].columns.items()]
        columns = _count_keys(connection, scan, rows, columns)
    return TableProfile(named, rows, sampled, tuple(columns))


def profile_relations(relations: Sequence[Relation], *, threads: int = 1, memory_limit: str = "4GB") -> TableProfile:
    """The same of tables and queries of databases, which have the columns of the first.

    The database counts the rows, and sends a random sample of at most about 200,000: a large table is not carried
    over the network for a look at it. How many different values a column has in all is estimated from the sample.
    """
    with _reading(str(relations[0].address), threads, memory_limit) as connection:
        try:
            rows, kinds = _sample_relations(connection, relations, None)
        finally:
            for relation in relations:
                relation.close()
        sampled = int(connection.sql("SELECT count(*) FROM sample").fetchall()[0][0])
        columns = [_column(connection, column, kind, sampled) for column, kind in kinds.items()]
        if sampled < rows:
            columns = [_estimate_keys(connection, column, rows) for column in columns]
    return TableProfile(tuple(relation.address.public for relation in relations), rows, sampled, tuple(columns))


def label_purity(
    paths: str | Path | Iterable[str | Path],
    label: str,
    columns: Sequence[str],
    *,
    fraud: Sequence[str] = LabelColumn("").fraud,
    threads: int = 1,
    memory_limit: str = "4GB",
) -> dict[str, float]:
    """How well each column alone tells the label, on the sample: from 0 (not at all) to 1 (it determines it).

    ``fraud``: the label's values that mean fraud, in lower case. Raises DataError when the files cannot be read.

    The measure is Goodman and Kruskal's tau for a two-valued label: 1 minus the mean variance of the label within
    groups of equal values (numbers: up to 100 groups of equal size, and each of the hundred most frequent values)
    over its variance. Only groups of at least five rows count as knowledge.
    """
    found = tables.find(paths)
    with _reading(str(found[0]), threads, memory_limit) as connection:
        described = [tables.describe(path, connection) for path in found]
        scan = _union(described)
        rows = int(connection.sql(f"SELECT count(*) FROM {scan}").fetchall()[0][0])
        _sample(connection, scan, rows, len(described[0].columns))
        return _purities(connection, described[0].columns, label, columns, fraud)


def label_purity_of_relations(
    relations: Sequence[Relation],
    label: str,
    columns: Sequence[str],
    *,
    fraud: Sequence[str] = LabelColumn("").fraud,
    threads: int = 1,
    memory_limit: str = "4GB",
) -> dict[str, float]:
    """The same of tables and queries of databases, on another random sample."""
    with _reading(str(relations[0].address), threads, memory_limit) as connection:
        try:
            _, kinds = _sample_relations(connection, relations, [label, *columns])
        finally:
            for relation in relations:
                relation.close()
        return _purities(connection, kinds, label, columns, fraud)


@contextmanager
def _reading(first: str, threads: int, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for a while; what DuckDB cannot read is a DataError that names the first."""
    with tables.connect(threads, memory_limit) as connection:
        try:
            yield connection
        except duckdb.Error as error:
            raise DataError(f"cannot read {first}: {tables.first_line(error)}") from error


def _union(described: Sequence[Table]) -> str:
    columns = ", ".join(name(column) for column in described[0].columns)
    return "(" + " UNION ALL ".join(f"SELECT {columns} FROM {table.scan}" for table in described) + ")"


def _wanted(columns: int) -> int:
    return max(1_000, min(SAMPLE_ROWS, SAMPLE_CELLS // columns))


def _sample(connection: duckdb.DuckDBPyConnection, scan: str, rows: int, columns: int) -> int:
    wanted = _wanted(columns)
    step = max(1, -(-rows // wanted))
    connection.execute(
        # two underscores keep it apart from columns of the user, who may well have a row_no or rowid
        "CREATE TEMP TABLE sample AS SELECT * FROM "
        f"(SELECT *, row_number() OVER () AS __row FROM {scan}) WHERE __row % {step} = 0"
    )
    return int(connection.sql("SELECT count(*) FROM sample").fetchall()[0][0])


def _sample_relations(
    connection: duckdb.DuckDBPyConnection, relations: Sequence[Relation], columns: Sequence[str] | None
) -> tuple[int, dict[str, str]]:
    """Make the table ``sample`` of these columns (of all without a list); how many rows there are in all, and the
    columns' types."""
    found = [table_of(relation) for relation in relations]
    for table in found[1:]:
        tables.require(table, list(found[0].columns if columns is None else columns))
    kinds = found[0].columns
    rows = sum(relation.count() for relation in relations)
    if rows == 0:
        raise DataError(f"{relations[0].address} has no rows")
    share = min(1.0, _wanted(len(kinds)) / rows)
    read = [column for column in columns or kinds if _is_plain(column, kinds[column])]
    taken = 0
    connection.execute("SET TimeZone = 'UTC'")
    for relation, table in zip(relations, found, strict=True):
        narrow = table.of(read)
        for block in relation.rows(read, share):
            connection.register(RAW, block)
            numbered = f"SELECT *, {taken} + row_number() OVER () AS __row FROM {narrow.scan}"
            made = "INSERT INTO sample" if taken else "CREATE OR REPLACE TEMP TABLE sample AS"
            connection.execute(f"{made} {numbered}")
            connection.unregister(RAW)
            taken += block.num_rows
    if not taken:
        raise DataError(f"{relations[0].address} has {rows:,} rows, but gave none of them")
    return rows, kinds


def _is_plain(column: str, kind: str) -> bool:
    """Whether anything can be said of a column: not of nested values."""
    try:
        rules.plain_type(column, kind)
    except DataError:
        return False
    return True


def _column(connection: duckdb.DuckDBPyConnection, column: str, kind: str, rows: int) -> ColumnProfile:
    if not _is_plain(column, kind):
        return ColumnProfile(name=column, sql_type=kind, rows=rows, filled=0.0, distinct=0, all_distinct=0)
    plain = rules.plain_type(column, kind)
    text = rules.as_text(plain, name(column))
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE one AS SELECT __row AS n, CASE WHEN v IN {literals(normalise.NULL_WORDS)} "
        f"THEN NULL ELSE t END AS v, CASE WHEN regexp_full_match(v, {literal(normalise.NUMBER)}) "
        f"THEN try_cast(v AS DOUBLE) END AS d FROM "
        f"(SELECT __row, t, lower(t) AS v FROM (SELECT __row, {text} AS t FROM sample))"
    )
    decimals = "CASE WHEN d IS NOT NULL AND NOT contains(v, 'e') THEN length(split_part(v, '.', 2)) END"
    naive, zoned = literal(normalise.NAIVE_TIME), literal(normalise.ZONED_TIME)
    facts = connection.sql(
        "SELECT count(v), count(DISTINCT v), count(d), count(*) FILTER (d = trunc(d)), "
        f"count(*) FILTER (lower(v) IN {literals(normalise.TRUE_WORDS | normalise.FALSE_WORDS)}), "
        f"count(*) FILTER (regexp_full_match(v, {naive})), count(*) FILTER (regexp_full_match(v, {zoned})), "
        f"count(*) FILTER (regexp_full_match(v, '[0-9-]{{10}}|[0-9-]{{10}}[T ]00:00:00')), min(d), max(d), "
        f"quantile_disc({decimals}, 0.99), avg(length(v)), min(v), max(v) FROM one"
    ).fetchall()[0]
    filled, distinct = int(facts[0]), int(facts[1])
    share = [count / filled if filled else 0.0 for count in facts[2:8]]
    times = share[3] + share[4]
    top = connection.sql(
        f"SELECT v, count(*) FROM one WHERE v IS NOT NULL GROUP BY v ORDER BY count(*) DESC, v LIMIT {TOP}"
    ).fetchall()
    native_zone = plain == "TIMESTAMP WITH TIME ZONE"
    return ColumnProfile(
        name=column,
        sql_type=plain,
        rows=rows,
        filled=filled / rows,
        distinct=distinct,
        all_distinct=distinct,
        numbers=share[0],
        whole=share[1],
        booleans=share[2],
        naive_times=0.0 if native_zone else share[3],
        zoned_times=1.0 if native_zone and filled else share[4],
        dates=share[5] / times if times else 0.0,
        cards=sum(looks_like_card(value.removesuffix(".0")) for value, _ in top) / len(top) if top else 0.0,
        rising=_rising(connection, by_number=share[0] > 0.9),
        minimum=facts[8],
        maximum=facts[9],
        earliest=facts[12] or "",
        latest=facts[13] or "",
        decimals=0 if share[1] == share[0] else int(facts[10] or 0),
        length=float(facts[11] or 0.0),
        top=tuple((str(value), int(count)) for value, count in top),
    )


def _rising(connection: duckdb.DuckDBPyConnection, *, by_number: bool) -> float:
    value = "d" if by_number else "v"
    (up, pairs) = connection.sql(
        f"SELECT count(*) FILTER ({value} >= before), count(before) FROM "
        f"(SELECT {value}, lag({value}) OVER (ORDER BY n) AS before FROM one WHERE {value} IS NOT NULL)"
    ).fetchall()[0]
    return up / pairs if pairs else 0.0


def _count_keys(
    connection: duckdb.DuckDBPyConnection, scan: str, rows: int, columns: list[ColumnProfile]
) -> list[ColumnProfile]:
    """Distinct values of the whole file, for columns that may be keys: in a sample, every rare key looks unique."""
    keys = [c for c in columns if c.distinct > 20 and c.rows < rows and (c.numbers < 0.9 or c.whole == c.numbers)]
    if not keys:
        return columns
    counted = ", ".join(f"approx_count_distinct({name(column.name)})" for column in keys)
    totals = dict(
        zip((c.name for c in keys), connection.sql(f"SELECT {counted} FROM {scan}").fetchall()[0], strict=True)
    )
    return [msgspec.structs.replace(c, all_distinct=int(totals[c.name])) if c.name in totals else c for c in columns]


def _estimate_keys(connection: duckdb.DuckDBPyConnection, column: ColumnProfile, rows: int) -> ColumnProfile:
    """The number of distinct values among ``rows`` rows, of which the table ``sample`` is a random part.

    The estimate of Haas and Stokes (1998) that PostgreSQL makes too: n d / (n - f + f n / N), of a sample of n of N
    rows with d distinct values, f of which occur once.
    """
    if column.distinct <= 20:
        return column
    n, d, once = connection.sql(
        f"SELECT sum(k), count(*), count(*) FILTER (k = 1) FROM (SELECT count(*) AS k FROM sample "
        f"WHERE {name(column.name)} IS NOT NULL GROUP BY {name(column.name)})"
    ).fetchall()[0]
    share = column.rows / rows
    return msgspec.structs.replace(column, all_distinct=round(n * d / (n - once + once * share)))


def _purities(
    connection: duckdb.DuckDBPyConnection,
    kinds: dict[str, str],
    label: str,
    columns: Sequence[str],
    fraud: Sequence[str],
) -> dict[str, float]:
    text = rules.as_text(rules.plain_type(label, kinds[label]), name(label))
    return {column: _purity(connection, text, fraud, column) for column in columns}


def _purity(connection: duckdb.DuckDBPyConnection, label: str, fraud: Sequence[str], column: str) -> float:
    facts = connection.sql(
        f"WITH base AS (SELECT (lower({label}) IN {literals(fraud)})::INTEGER AS y, "
        f"coalesce({name(column)}::VARCHAR, '') AS v, try_cast({name(column)} AS DOUBLE) AS d FROM sample "
        f"WHERE {label} IS NOT NULL), "
        "frequent AS (SELECT v AS value FROM base GROUP BY v HAVING count(*) >= 5 ORDER BY count(*) DESC LIMIT 100), "
        "grouped AS (SELECT y, CASE WHEN value IS NOT NULL THEN value WHEN d IS NOT NULL THEN "
        "'#' || ntile(100) OVER (PARTITION BY value IS NULL AND d IS NOT NULL ORDER BY d) ELSE '' END AS g "
        "FROM base LEFT JOIN frequent ON v = value), "
        "sums AS (SELECT count(*) AS n, sum(y) AS k FROM grouped GROUP BY g) "
        "SELECT sum(k), sum(n), sum(CASE WHEN n >= 5 THEN k * (n - k) / n ELSE 0.25 * n END) FROM sums"
    ).fetchall()[0]
    positive, rows, within = (float(fact or 0) for fact in facts)
    variance = positive * (rows - positive) / rows if rows else 0.0
    return max(0.0, 1.0 - within / variance) if variance else 0.0
