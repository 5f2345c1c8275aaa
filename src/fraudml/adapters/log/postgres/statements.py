"""The statements of the hot path and of streams, as text. Names are our own, values are parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fraudml.adapters.log.postgres import cells
from fraudml.adapters.log.postgres.cells import ARRAY_OF, BIGINT, BOOL, BYTEA, FLOAT, INT, LINK, TEXT, Rows
from fraudml.adapters.log.postgres.tables import BLIND
from fraudml.decisions.chain import Link

# Row by row, by indexes, whatever the statistics say. Left alone the planner takes id and time for independent of each
# other, so it expects one row where all have both, and reads a whole table for each row of another; and a plan made for
# an empty table and kept would read all of a large one.
BY_INDEX = "; ".join(
    f"SET {{0}} enable_{way} = off" for way in ("seqscan", "hashjoin", "mergejoin", "material", "sort")
)


# Of a table that is cut into pieces, row by row means piece by piece for each row. So for many rows hashes are better.
CUT = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'transactions'::regclass)"
FEW = 5_000
MANY = (
    f"SELECT (SELECT count(*) FROM (SELECT FROM transaction_ids WHERE arrival > %(after)s LIMIT {FEW}) AS ids) + "  # noqa: S608
    f"(SELECT count(*) FROM (SELECT FROM labels WHERE arrival > %(after)s LIMIT {FEW}) AS reports) >= {FEW}"
)
BY_HASH = "; ".join(
    f"SET LOCAL enable_{way} = {on}"
    for way, on in {"nestloop": "off", "hashjoin": "on", "seqscan": "on", "sort": "on"}.items()
)


class Statement(NamedTuple):
    """A statement that is prepared once for each connection; ``types``: OIDs of its parameters."""

    name: bytes
    text: bytes
    types: tuple[int, ...]


GIVEN = {
    "transaction_id": TEXT,
    "event_time_us": BIGINT,
    "arrival": BIGINT,
    "amount_minor": BIGINT,
    "entities": TEXT,
    "attributes": TEXT,
    "original_id": BYTEA,
    "vector": BYTEA,
    "score": FLOAT,
    "action": TEXT,
    "model_version": TEXT,
    "fingerprint": TEXT,
    "arm": TEXT,
    "late": BOOL,
    "degraded": TEXT,
    "decided_at_us": BIGINT,
    "timings": TEXT,
    "trial": TEXT,
    "source": TEXT,
    "entered_us": BIGINT,
}
# The columns of each table that are written, in the order in which the tables are.
INTO = {
    "transaction_ids": ("transaction_id", "event_time_us", "arrival"),
    "transactions": (
        *("transaction_id", "event_time_us", "arrival"),
        *("amount_minor", "entities", "attributes", "original_id"),
    ),
    "decisions": (
        *("transaction_id", "event_time_us", "arrival"),
        *("vector", "score", "action", "model_version", "fingerprint", "arm"),
        *("late", "degraded", "decided_at_us", "timings", "trial", "source", "entered_us", "amount_minor"),
    ),
}
_JSON = {"entities", "attributes", "timings"}


def _insert(table: str) -> str:
    values = ", ".join(f"{name}::json" if name in _JSON else name for name in INTO[table])
    return f"INSERT INTO {table} ({', '.join(INTO[table])}) SELECT {values} FROM given"  # noqa: S608 - our own names


def _link(first: int) -> str:
    """Adds a link whose values are the parameters from this number on."""
    values = ", ".join(f"${number}" for number in range(first, first + len(LINK)))
    return f"link AS (INSERT INTO chain ({', '.join(LINK)}) VALUES ({values}))"  # noqa: S608 - our own names


def _append(*, linked: bool) -> str:
    """All three tables, and a link, by one statement, so by one round trip and one commit."""
    parameters = ", ".join(f"${number}" for number in range(1, len(GIVEN) + 1))
    return (
        f"WITH given AS MATERIALIZED (SELECT * FROM unnest({parameters}) AS given ({', '.join(GIVEN)})), "  # noqa: S608
        f"ids AS ({_insert('transaction_ids')}), events AS ({_insert('transactions')})"
        f"{', ' + _link(len(GIVEN) + 1) if linked else ''} {_insert('decisions')}"
    )


def _copy(*, linked: bool) -> str:
    """Several statements sent as one are one transaction, and its commit."""
    into = {**INTO, "chain": tuple(LINK)} if linked else INTO
    return ";".join(f"COPY {table} ({', '.join(names)}) FROM STDIN (FORMAT binary)" for table, names in into.items())


def copied(rows: Rows, link: Link | None) -> list[bytes]:
    """What each of the COPY statements reads."""
    parts = [cells.copied([getattr(rows, name) for name in names]) for names in INTO.values()]
    return parts if link is None else [*parts, cells.copied(cells.link_columns(link))]


_ROWS = tuple(ARRAY_OF[kind] for kind in GIVEN.values())
APPEND = Statement(b"append", _append(linked=False).encode(), _ROWS)
APPEND_LINKED = Statement(b"append_linked", _append(linked=True).encode(), (*_ROWS, *LINK.values()))
COPY, COPY_LINKED = (_copy(linked=linked).encode() for linked in (False, True))
HEAD = Statement(b"head", b"SELECT seq, digest FROM chain WHERE writer = $1 ORDER BY seq DESC LIMIT 1", (BIGINT,))
HEAD_KINDS = (BIGINT, BYTEA)
TIMES = Statement(
    b"times",
    b"SELECT transaction_id, event_time_us FROM transaction_ids WHERE transaction_id = ANY($1)",
    (ARRAY_OF[TEXT],),
)
TIMES_KINDS = (TEXT, BIGINT)
CHAIN = f"SELECT {', '.join(LINK)} FROM chain ORDER BY "  # noqa: S608 - our own names
CARRY = f"INSERT INTO chain ({', '.join(LINK)}) VALUES ({', '.join(['%s'] * len(LINK))}) ON CONFLICT DO NOTHING"  # noqa: S608

# An id as it came; a key that is a digest of it stays inside.
ID = "coalesce(t.original_id, convert_to(t.transaction_id, 'UTF8'))"
_OF_DECISION = (
    *("d.vector", "d.score", "d.action", "d.model_version", "d.fingerprint", "d.arm"),
    *("d.late", "d.degraded", "d.decided_at_us", "d.timings::text", "d.trial", "d.source", "d.entered_us"),
)
_PLACE = "USING (transaction_id, event_time_us)"

# Mostly no id is known, and this is all that is asked: a plain table, while the others may be cut into pieces.
KNOWN = Statement(
    b"known",
    b"SELECT min(event_time_us), max(event_time_us) FROM transaction_ids WHERE transaction_id = ANY($1)",
    (ARRAY_OF[TEXT],),
)
BETWEEN = (BIGINT, BIGINT)
# Row of RowCodec.decision. The times let the server open the pieces between them only; OFFSET 0 keeps it from starting
# there: before it has statistics it takes all transactions of these times for very few.
FIND = Statement(
    b"find",
    (
        "SELECT found.* FROM transaction_ids AS i CROSS JOIN LATERAL ("  # noqa: S608
        f"SELECT t.arrival, {ID}, t.event_time_us, t.amount_minor, t.entities::text, t.attributes::text, "
        f"{', '.join(_OF_DECISION)} FROM transactions AS t JOIN decisions AS d {_PLACE} "
        "WHERE t.transaction_id = i.transaction_id AND t.event_time_us = i.event_time_us "
        "AND t.event_time_us BETWEEN $2 AND $3 AND d.event_time_us BETWEEN $2 AND $3 OFFSET 0) AS found "
        "WHERE i.transaction_id = ANY($1)"
    ).encode(),
    (ARRAY_OF[TEXT], BIGINT, BIGINT),
)
FOUND = (
    *(BIGINT, BYTEA, BIGINT, BIGINT, TEXT, TEXT),
    *(BYTEA, FLOAT, TEXT, TEXT, TEXT, TEXT, BOOL, TEXT, BIGINT, TEXT, TEXT, TEXT, BIGINT),
)

# In no order: without sorting, which BY_INDEX switches off, the server would read all labels in the one asked for.
HISTORY = Statement(
    b"history",
    b"SELECT transaction_id, is_fraud, known_at_us, arrival FROM labels WHERE transaction_id = ANY($1)",
    (ARRAY_OF[TEXT],),
)
REPORTED = (TEXT, BOOL, BIGINT, BIGINT)

# An unknown transaction is refused by the foreign key.
_REPORTS = tuple(ARRAY_OF[kind] for kind in (BIGINT, TEXT, INT, BOOL, BIGINT))
_APPEND_LABELS = (
    "INSERT INTO labels (arrival, transaction_id, nth, is_fraud, known_at_us, event_time_us) "
    "SELECT given.*, i.event_time_us FROM unnest($1, $2, $3, $4, $5) "
    "AS given (arrival, transaction_id, nth, is_fraud, known_at_us) LEFT JOIN transaction_ids AS i USING "
    "(transaction_id)"
)
APPEND_LABELS = Statement(b"append_labels", _APPEND_LABELS.encode(), _REPORTS)
APPEND_LINKED_LABELS = Statement(
    b"append_linked_labels",
    f"WITH {_link(len(_REPORTS) + 1)} {_APPEND_LABELS}".encode(),
    (*_REPORTS, *LINK.values()),
)

APPEND_SHADOW = (
    "INSERT INTO shadow_scores (arrival, model_version, score, action, model_us) SELECT * FROM "
    "unnest(%s::bigint[], %s::text[], %s::double precision[], %s::text[], %s::bigint[]) ON CONFLICT DO NOTHING"
)

_EVENT = f"{ID}, t.event_time_us, t.amount_minor, t.entities::text, t.attributes::text"
LAST_DECISION = "SELECT coalesce(max(arrival), 0) FROM transaction_ids"
LAST_ARRIVAL = f"SELECT greatest(({LAST_DECISION}), (SELECT coalesce(max(arrival), 0) FROM labels))"  # noqa: S608
MODEL_VERSIONS = "SELECT model_version FROM decisions UNION SELECT model_version FROM shadow_scores"
PING = "SELECT arrival FROM transaction_ids LIMIT 1"
_IS_DIGEST = r"({0} >= E'\x1a' AND {0} < E'\x1b')"  # begins with keys.MARK: a range of the index
IDS = f"SELECT transaction_id FROM transaction_ids WHERE NOT {_IS_DIGEST.format('transaction_id')}"  # noqa: S608
LONG_IDS = (
    f"SELECT t.original_id FROM transaction_ids AS i JOIN transactions AS t {_PLACE} "  # noqa: S608
    f"WHERE {_IS_DIGEST.format('i.transaction_id')}"
)
_IN_ORDER = f"FROM transaction_ids AS i JOIN transactions AS t {_PLACE}"
REPLAY = (
    f"SELECT {_EVENT}, l.is_fraud, l.known_at_us {_IN_ORDER} LEFT JOIN labels AS l "
    "ON l.transaction_id = i.transaction_id AND l.nth = 1 WHERE i.arrival > %s ORDER BY i.arrival"
)
# Those decided without the online store have an index of their own, `decisions_blind`.
REPLAY_BLIND = (
    f"SELECT {_EVENT}, l.is_fraud, l.known_at_us FROM decisions AS d JOIN transactions AS t {_PLACE} "  # noqa: S608
    "LEFT JOIN labels AS l ON l.transaction_id = d.transaction_id AND l.nth = 1 "
    f"WHERE d.arrival > %s AND d.degraded LIKE '{BLIND.replace('%', '%%')}' ORDER BY d.arrival"
)
DECISIONS = (
    f"SELECT t.arrival, {ID}, t.event_time_us, t.amount_minor, t.entities::text, t.attributes::text, "
    f"{', '.join(_OF_DECISION)} {_IN_ORDER} JOIN decisions AS d {_PLACE} WHERE i.arrival > %s ORDER BY i.arrival"
)
LABELS = (
    f"SELECT {ID}, l.is_fraud, l.known_at_us, l.arrival, t.entities::text {_IN_ORDER} "
    "JOIN labels AS l ON l.transaction_id = i.transaction_id WHERE l.arrival > %s ORDER BY l.arrival"
)
LATER_LABELS = LABELS.replace(
    "WHERE l.arrival > %s",
    "CROSS JOIN (SELECT %s::bigint AS first) AS after "
    "WHERE l.arrival > after.first AND (l.nth > 1 OR i.arrival <= after.first)",
)
AUDIT = (
    f"SELECT {_EVENT}, i.arrival, d.decided_at_us, d.score, d.action, d.model_version, d.arm, d.fingerprint, "
    f"d.late, d.degraded, d.vector {_IN_ORDER} JOIN decisions AS d {_PLACE} WHERE i.arrival > %s ORDER BY i.arrival"
)
ENTERED_BEFORE = "SELECT arrival, entered_us FROM decisions WHERE entered_us IS NOT NULL"
# The transactions themselves are asked for long ids only.
AUDIT_LABELS = (
    f"SELECT {ID.replace('t.transaction_id', 'l.transaction_id')}, "  # noqa: S608
    "i.event_time_us, l.is_fraud, l.known_at_us, l.arrival "
    "FROM labels AS l JOIN transaction_ids AS i USING (transaction_id) LEFT JOIN transactions AS t "
    "ON t.transaction_id = i.transaction_id AND t.event_time_us = i.event_time_us "
    rf"AND {_IS_DIGEST.format('t.transaction_id')} WHERE l.arrival > %s ORDER BY l.arrival"
)
_OUTCOME = (
    f"SELECT {ID}, i.arrival, t.event_time_us, t.amount_minor, t.entities::text, d.score, d.action, d.model_version, "
    "d.arm, d.degraded, d.timings::text, d.trial, {} "
    f"{_IN_ORDER} JOIN decisions AS d {_PLACE}"
)
OUTCOMES = f"{_OUTCOME.format('null, null, null')} WHERE i.arrival > %s ORDER BY i.arrival"
LABELLED_OUTCOMES = (
    f"{_OUTCOME.format('l.is_fraud, l.known_at_us, l.arrival')} JOIN labels AS l "
    "ON l.transaction_id = i.transaction_id WHERE l.arrival > %s ORDER BY l.arrival"
)
# As they are stored, to be compared with links. The last column: whether what is kept twice differs.
STORED_DECISIONS = (
    f"SELECT i.arrival, i.transaction_id, {ID}, t.arrival, t.event_time_us, t.amount_minor, "  # noqa: S608
    f"t.entities::text, t.attributes::text, d.arrival, {', '.join(_OF_DECISION)}, "
    "d.amount_minor IS DISTINCT FROM t.amount_minor "
    f"FROM transaction_ids AS i LEFT JOIN transactions AS t {_PLACE} LEFT JOIN decisions AS d {_PLACE} "
    "WHERE i.arrival > %s ORDER BY i.arrival"
)
STORED_LABELS = (
    f"SELECT l.arrival, l.transaction_id, {ID.replace('t.transaction_id', 'l.transaction_id')}, "  # noqa: S608
    "l.nth, l.is_fraud, l.known_at_us, l.event_time_us IS DISTINCT FROM i.event_time_us "
    "FROM labels AS l LEFT JOIN transaction_ids AS i USING (transaction_id) LEFT JOIN transactions AS t "
    "ON t.transaction_id = i.transaction_id AND t.event_time_us = i.event_time_us "
    rf"AND {_IS_DIGEST.format('t.transaction_id')} WHERE l.arrival > %s ORDER BY l.arrival"
)
# In one of the two tables and found by no id.
_STRAY = (
    "SELECT arrival, transaction_id FROM {} AS t, since WHERE t.event_time_us >= since.us AND NOT EXISTS (SELECT FROM "
    "transaction_ids AS i WHERE i.transaction_id = t.transaction_id AND i.event_time_us = t.event_time_us)"
)
STRAYS = f"WITH since AS (SELECT %s::bigint AS us) {_STRAY.format('transactions')} UNION {_STRAY.format('decisions')}"
SHADOW_SCORES = (
    "SELECT s.arrival, s.model_version, s.score, s.action, s.model_us, d.model_version, d.score, d.action "  # noqa: S608
    f"FROM shadow_scores AS s JOIN transaction_ids AS i USING (arrival) JOIN decisions AS d {_PLACE} "
    "WHERE s.arrival > %s ORDER BY s.arrival, s.model_version"
)
# Of a limited number of their rows, for each day: the first and last time, the number of rows, the last arrival. Days
# are null of rows for which no table is asked that may be in pieces.
_DAYS = (
    "SELECT min(time), max(time), count(*), max(arrival) FROM ({} WHERE {}.arrival > %s ORDER BY arrival LIMIT %s) "
    "AS part GROUP BY time / 86400000000 ORDER BY 1"
)
_DAYS_OF_DECISIONS = _DAYS.format("SELECT i.arrival, i.event_time_us AS time FROM transaction_ids AS i", "i")
PARTS = {
    AUDIT: _DAYS_OF_DECISIONS,
    OUTCOMES: _DAYS_OF_DECISIONS,
    LABELLED_OUTCOMES: _DAYS.format(
        "SELECT l.arrival, i.event_time_us AS time FROM labels AS l JOIN transaction_ids AS i USING (transaction_id)",
        "l",
    ),
    AUDIT_LABELS: _DAYS.format(
        f"SELECT l.arrival, CASE WHEN {_IS_DIGEST.format('l.transaction_id')} THEN i.event_time_us END AS time "  # noqa: S608
        "FROM labels AS l JOIN transaction_ids AS i USING (transaction_id)",
        "l",
    ),
}


def part(text: str, times: Sequence[tuple[int, int]]) -> str:
    """One of :data:`PARTS` up to an arrival number, its second parameter, whose transactions are of these times."""
    within = " OR ".join(f"{{0}}.event_time_us BETWEEN {first:d} AND {last:d}" for first, last in times) or "false"
    pieces = " AND ".join(f"({within.format(table)})" for table in ("t", "d") if f" AS {table} " in text)
    if text is AUDIT_LABELS:
        return text.replace(" WHERE l.arrival > %s", f" AND {pieces} WHERE l.arrival > %s AND l.arrival <= %s")
    place = "l.arrival" if text is LABELLED_OUTCOMES else "i.arrival"
    return text.replace(f"{place} > %s", f"{place} > %s AND {place} <= %s AND {pieces}")
