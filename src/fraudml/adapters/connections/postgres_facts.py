"""Facts about a PostgreSQL database, found out by using it in transactions that are rolled back: for ``fraudml
doctor``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from fraudml.adapters.connections import postgres
from fraudml.adapters.connections._pings import ping
from fraudml.decisions.servers import ServerFacts, Trial, Trouble

SHOWN = ("server_version", "server_encoding", "fsync", "max_connections", "default_transaction_read_only")
# Part of what the server says -> what to do.
_ADVICE = {
    "authentication failed": "correct user and password, in the URL or in PGPASSWORD or ~/.pgpass",
    "no password supplied": "give the password, in the URL or in PGPASSWORD or ~/.pgpass",
    "does not exist": "create it, as docs/howto/grow-from-a-laptop.md shows, or correct the URL",
    "too many clients": "raise max_connections, or stop what holds so many connections",
    "remaining connection slots": "raise max_connections, or stop what holds so many connections",
    "starting up": "wait until it has started; look at its log",
    "timeout": "look whether it hangs, or a firewall drops what is sent",
    "SSL": "correct sslmode in the URL",
}
_REACH = "start it, or correct host and port"


class Use(NamedTuple):
    """The tables that are read and added to, and those of which rows are changed, too."""

    read: Sequence[str] = ()
    changed: Sequence[str] = ()


def facts(
    url: str,
    timeout_s: float,
    use: Use | None = None,
    *,
    setting: str = "FRAUDML_DATABASE_URL",
    clock: Callable[[], float] = time.time,
) -> ServerFacts | Trouble:
    """What is there, and whether the role may do what ``use`` says with those of the tables that exist.

    Raises ``ConfigError`` for a URL that is none, which is not repeated.
    """
    words, place = postgres.parameters(url, setting), postgres.place(url, setting)
    limits = f"-c statement_timeout={int(timeout_s * 1e3)} -c lock_timeout={int(timeout_s * 500)}"
    words |= {"connect_timeout": str(max(int(timeout_s), 2)), "application_name": "fraudml doctor", "options": limits}
    try:
        with psycopg.connect(autocommit=True, **words) as connection:  # type: ignore[arg-type]
            return _facts(connection, place, use, clock)
    except psycopg.Error as error:
        text = _text(error)
        if password := words.get("password"):
            text = text.replace(password, "...")
        do = next((advice for part, advice in _ADVICE.items() if part in text), _REACH)
        return Trouble(f"{place} cannot be used: {text}", f"{do} ({setting})")


def _facts(connection: psycopg.Connection[Any], place: str, use: Use | None, clock: Callable[[], float]) -> ServerFacts:
    def now_s() -> float:
        return float(_one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8"))

    pings = ping(now_s, clock)
    details = {name: str(_one(connection, "SELECT current_setting(%s)", name)) for name in SHOWN}
    details["in_recovery"] = "on" if _one(connection, "SELECT pg_is_in_recovery()") else "off"
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    details["connections"] = str(_one(connection, clients))
    extension = _one(connection, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    if extension is not None:
        details["timescaledb"] = str(extension)
    return ServerFacts(
        place=place,
        product="PostgreSQL",
        version=details["server_version"].split(" ")[0],
        latency_ms=pings.latency_ms,
        ahead_ms=pings.ahead_ms,
        unsure_ms=pings.unsure_ms,
        trials=() if use is None or details["in_recovery"] == "on" else tuple(_trials(connection, use)),
        details=details,
    )


def _one(connection: psycopg.Connection[Any], query: str, *values: str) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]


def _trials(connection: psycopg.Connection[Any], use: Use) -> Iterator[Trial]:
    """What services and upgrades do, without a trace."""
    there = {name: columns for name in use.read if (columns := _columns(connection, name))}
    made = sql.Identifier(f"fraudml_doctor_{secrets.token_hex(6)}")
    make = [sql.SQL("CREATE TABLE {} (n int)").format(made)]
    yield Trial("make tables", _problem(connection, make), needed=not there)
    if there:
        names = {name: sql.Identifier(name) for name in there}
        listed = {name: sql.SQL(", ").join(map(sql.Identifier, columns)) for name, columns in there.items()}
        read = [sql.SQL("SELECT 1 FROM {} LIMIT 1").format(names[name]) for name in there]
        yield Trial("read its tables", _problem(connection, read))
        add = [
            sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM {0} WHERE false").format(names[name], listed[name])
            for name in there
        ]
        yield Trial("add to its tables", _problem(connection, add))
        change = [
            sql.SQL("UPDATE {0} SET {1} = {1} WHERE false").format(names[name], sql.Identifier(there[name][0]))
            for name in use.changed
            if name in there
        ]
        yield Trial("change its tables", _problem(connection, change))


def _columns(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """The columns of a table that can be written; none where there is no such table."""
    query = """
        SELECT attname FROM pg_attribute
        WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND NOT attisdropped
          AND attgenerated = '' AND attidentity <> 'a'
        ORDER BY attnum
    """
    return [str(row[0]) for row in connection.execute(query, [table])]


def _problem(connection: psycopg.Connection[Any], statements: Sequence[sql.Composed]) -> str | None:
    """What the first of them that fails says; they are undone."""
    for statement in statements:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(statement)
        except psycopg.OperationalError:
            if connection.closed:
                raise
            return "it waited too long for a lock"
        except psycopg.Error as error:
            return _text(error)
    return None


def _text(error: psycopg.Error) -> str:
    """The server's own words, else the driver's, without what it tried before that.

    >>> _text(psycopg.Error('connection to server at "::1" failed: FATAL:  the database system is starting up'))
    'the database system is starting up'
    """
    said = error.diag.message_primary or str(error).strip() or type(error).__name__
    return said.splitlines()[0].rpartition(" failed: ")[2].removeprefix("FATAL:").strip()
