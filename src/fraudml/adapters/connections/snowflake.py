"""A session of Snowflake from a URL: what the adapters of every role need of it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from fraudml.errors import ConfigError, MissingExtra, StoreError
from fraudml.events.source import gathered

FORM = "snowflake://user:password@account/database/schema?warehouse=NAME&role=NAME"
# What a URL may say after the ?: arguments of the driver.
TEXTS = {
    "warehouse",
    "role",
    "authenticator",
    "private_key_file",
    "private_key_file_pwd",
    "token",
    "token_file_path",
    "connection_name",
    "host",
    "protocol",
}
NUMBERS = {"port", "login_timeout", "network_timeout"}
OPTIONS: dict[str, Any] = {
    "application": "fraudml",
    "login_timeout": 30,
    "network_timeout": 3_600,  # of one statement, retries included: the driver cancels what takes longer
    "client_session_keep_alive": True,
    "session_parameters": {
        "QUERY_TAG": "fraudml",
        "DEFAULT_DDL_COLLATION": "",  # text is compared by code point, whatever the account's default
        "TIMEZONE": "UTC",
        "LOCK_TIMEOUT": 60,  # seconds; the default is half a day
        "CLIENT_TELEMETRY_ENABLED": False,
        "CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False,
    },
}
TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}
FILE_ROWS = 500_000  # in one file that is loaded
# What helps, by the driver's and the server's numbers of errors; {} is the setting.
HINTS = {
    250001: "check account, user and password in {}, and the network",
    250003: "check the network, and run it again",
    606: "name a warehouse in {}: ?warehouse=NAME",
    625: "another session holds the table's lock; run it again when that has ended",
    2003: "check database and schema in {}; the role needs USAGE on both",
    2043: "check database and schema in {}; the role needs USAGE on both",
    3001: "the role needs USAGE on database and schema, and CREATE TABLE and CREATE STAGE in the schema",
    90105: "name the database in {}; the role needs USAGE on it",
    90106: "name the schema in {}; the role needs USAGE on it",
}


class SnowflakeSession:
    """One session; ``connect`` makes further connections. :meth:`open` it first; every method raises the driver's
    errors, which :meth:`failures` translates.

    ``url``: of the form :data:`FORM`; further words are the driver's arguments of that name (:data:`TEXTS`,
    :data:`NUMBERS`). With ``connection_name`` the rest is taken from the driver's ``connections.toml``. ``setting``:
    where the URL is from. Raises ``ConfigError``, which never repeats it, and ``MissingExtra``.
    """

    types = TYPES

    def __init__(self, url: str, setting: str) -> None:
        try:
            import snowflake.connector
        except ImportError:
            raise MissingExtra("snowflake") from None
        arguments = OPTIONS | parameters(url, setting)

        class Connection(snowflake.connector.SnowflakeConnection):
            def _cancel_query(self, sql: str, request_id: UUID) -> dict[str, bool | None]:
                """Called in a thread of the driver's: of a network that fails the statement itself tells."""
                with suppress(snowflake.connector.Error):
                    return super()._cancel_query(sql, request_id)
                return {}

        self._setting = setting
        self.connect: Callable[[], Any] = lambda: Connection(**arguments)
        self._connection: Any = None
        self._stage = f"fraudml_{uuid4().hex}"
        self._loads = count()

    def open(self) -> None:
        """Connect."""
        self._connection = self.connect()

    def run(self, statement: str) -> int:
        """Run a statement; the number of rows that it changed."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return int(cursor.rowcount or 0)

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns."""
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608 - a name of ours
            return [column.name for column in cursor.description]

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query in its order, fetched ahead by the driver."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            for table in cursor.fetch_arrow_batches():
                yield from table.to_batches()

    def load(self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows to a table with such columns, in one statement: Parquet files over a temporary stage."""
        stage = f"@{self._stage}/{next(self._loads)}"
        rows = files = 0
        with tempfile.TemporaryDirectory(prefix="fraudml-") as folder:
            for part in gathered(batches, FILE_ROWS):
                if not files:
                    self.run(f"CREATE TEMPORARY STAGE IF NOT EXISTS {self._stage}")
                path = Path(folder) / f"{files}.parquet"
                pq.write_table(part.rename_columns([f"C{i}" for i in range(len(schema))]), path)
                self.run(f"PUT 'file://{path.as_posix()}' {stage} AUTO_COMPRESS = FALSE")
                path.unlink()
                rows, files = rows + part.num_rows, files + 1
        if files:
            values = ", ".join(f"$1:C{i}::{TYPES[field.type]}" for i, field in enumerate(schema))
            source = f"SELECT {values} FROM {stage}"  # noqa: S608 - names of ours
            self.run(f"COPY INTO {table} FROM ({source}) FILE_FORMAT = (TYPE = PARQUET)")
        return rows

    def close(self) -> None:
        """End the session: Snowflake drops its temporary tables and stage."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def failures(self, kind: type[StoreError], doing: str) -> Iterator[None]:
        """Errors of the driver become ``kind``, with what can be done about them."""
        import snowflake.connector.errors as driver

        try:
            yield
        except driver.Error as error:
            said = " ".join(str(error.msg or error).split())
            hint = HINTS.get(error.errno or 0, "").format(self._setting)
            told = f"{said}; {hint}" if hint else said
            raise kind(f"Snowflake failed while {doing}: {told}") from error


def parameters(url: str, setting: str) -> dict[str, Any]:
    """The driver's arguments that a URL names.

    >>> sorted(parameters("snowflake://me:p%40ss@acme-prod/RISK/FRAUD?warehouse=WH", "X").items())
    [('account', 'acme-prod'), ('database', 'RISK'), ('password', 'p@ss'), ('schema', 'FRAUD'), ('user', 'me'),
    ('warehouse', 'WH')]
    """
    wrong = ConfigError(
        f"{setting} is no URL of Snowflake: write {FORM}, with %40 for an @ in the password and %2F for a /"
    )
    try:
        parts = urlsplit(url)
        words = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
        numbers = {name: int(value) for name, value in words if name in NUMBERS}
        account, user, password = parts.hostname, parts.username, parts.password
    except ValueError:  # its text may repeat the URL
        raise wrong from None
    path = [unquote(part) for part in parts.path.split("/") if part]
    unknown = sorted({name for name, _ in words} - TEXTS - NUMBERS)
    if unknown and re.fullmatch("[a-z_]+", unknown[0]):  # else it may be a piece of the password
        known = ", ".join(sorted(TEXTS | NUMBERS))
        raise ConfigError(f"{setting} has a parameter that fraudml does not know: {unknown[0]!r}; it knows: {known}")
    given = {name: value for name, value in words if name in TEXTS} | numbers
    if unknown or parts.scheme != "snowflake" or len(path) != 2 or not (account or "connection_name" in given):
        raise wrong
    named = {"account": account, "user": user, "password": password}
    found = {name: unquote(value) for name, value in named.items() if value}
    return found | {"database": path[0], "schema": path[1]} | given
