"""Connections to PostgreSQL: an engine with the pool that a process shares, or a single one."""

from __future__ import annotations

import os
import re
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fraudml.errors import ConfigError, MissingExtra, StoreError

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy as sa

SCHEMES = ("postgresql://", "postgres://", "postgresql+psycopg://")
# What a URL may say otherwise. A dead peer is noticed within about 25 s, on both sides: as long as the server believes
# in a client that is gone it keeps its locks.
PARAMETERS = {
    "application_name": "fraudml",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
    "client_encoding": "UTF8",
}
# The last one: a server, or a role, may be set to answer before a commit is on its disk; what was answered must survive
# a crash of the server. Stricter values (remote_apply) stay, and a later change of the server's does not count here.
SESSION = """
SET statement_timeout = '10s';
SET tcp_keepalives_idle = 10;
SET tcp_keepalives_interval = 5;
SET tcp_keepalives_count = 3;
SELECT set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""


@dataclass(frozen=True)
class Pool:
    """The limits of a process's pool: ``size`` connections are kept, ``overflow`` more opened when all are in use."""

    size: int = 5
    overflow: int = 5
    recycle_s: float = 1_800.0
    timeout_s: float = 5.0


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(SCHEMES)


def parameters(url: str, setting: str = "FRAUDML_DATABASE_URL") -> dict[str, str]:
    """What libpq understands of a URL: host, port, dbname, user, password, sslmode, service and so on.

    What it does not say libpq takes from ``PGHOST``, ``PGPASSWORD``, ``~/.pgpass`` and so on, as ``psql`` does.
    ``setting``: where the URL is from. Raises ``ConfigError``, which never repeats it, and ``MissingExtra``.

    >>> parameters("postgresql://me@db.example:6432/fraud?sslmode=require")["sslmode"]
    'require'
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise MissingExtra("postgres") from None
    wrong = ConfigError(
        f"{setting} is no URL of PostgreSQL: write postgresql://user:password@host:5432/database, "
        "with %40 for an @ in the password and %2F for a /"
    )
    try:
        given = conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
    except psycopg.Error:  # its text may repeat the URL
        raise wrong from None
    found = {name: str(value) for name, value in given.items()}
    # An @ or a / of the password: what follows it would be taken for host, port or database, and be told as such.
    ports = found.get("port", "").replace(",", "")
    if "@" in found.get("host", "") + found.get("dbname", "") or (ports and not ports.isdigit()):
        raise wrong
    return found


def place(url: str, setting: str = "FRAUDML_DATABASE_URL") -> str:
    """Which database a URL names, whoever asks for it: without user, password or other options.

    >>> place("postgresql://me:secret@db.example/fraud?sslmode=require")
    'db.example:5432/fraud'
    """
    from psycopg import pq

    given = parameters(url, setting)
    usual = {found.keyword.decode(): (found.val or b"").decode() for found in pq.Conninfo.get_defaults()}
    host, port, name = (given.get(word) or usual.get(word, "") for word in ("host", "port", "dbname"))
    service = given.get("service") or usual.get("service")
    where = f"{host or 'localhost'}:{port or '5432'}/{name or given.get('user') or usual.get('user', '')}"
    return f"{where}?service={service}" if service else where


def engine(url: str, pool: Pool | None = None, *, setting: str = "FRAUDML_DATABASE_URL") -> sa.Engine:
    """An engine whose connections are checked before use and wait for nothing for ever. Nothing is opened yet.

    It must not be used by a forked process with its parent's connections: there its pool begins empty. Its ``repr``
    holds no password. Raises ``ConfigError`` and ``MissingExtra``.
    """
    words = PARAMETERS | parameters(url, setting)
    import sqlalchemy as sa

    from fraudml.adapters.connections._patient import PatientConnection

    pool = pool or Pool()

    def connect() -> PatientConnection:
        opened = PatientConnection.connect(autocommit=True, **words)  # type: ignore[arg-type]
        try:
            opened.execute(SESSION)
            opened.autocommit = False
        except BaseException:
            opened.close()
            raise
        return opened

    made = sa.create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_recycle=pool.recycle_s,
        pool_timeout=pool.timeout_s,
        pool_pre_ping=True,
        pool_use_lifo=True,  # so that those beyond the usual load become old, and are closed
        use_native_hstore=False,
    )
    _forget_in_children(made)
    return made


def open_connection(
    url: str, *, setting: str, failure: type[StoreError] = StoreError, autocommit: bool = False
) -> psycopg.Connection[Any]:
    """One connection for a long reading: no limit on a statement, unless the URL sets one.

    Raises ``ConfigError`` and ``MissingExtra`` as :func:`parameters` does, and ``failure`` when the server cannot be
    reached or does not let us in; no text has the password.
    """
    words: dict[str, Any] = PARAMETERS | parameters(url, setting)
    import psycopg

    try:
        return psycopg.connect(**words, autocommit=autocommit)
    except psycopg.Error as error:
        raise failure(f"cannot connect to PostgreSQL at {place(url, setting)}: {_reason(error)}") from error


_PREFIX = re.compile(
    r"^(connection (failed|is bad): )?(connection to server (at|on) .*? failed: )?((FATAL|ERROR):  ?)?"
)


def _reason(error: Exception) -> str:
    """What the server or the driver said, and what to do.

    >>> print(_reason(Exception('connection failed: connection to server at "h", port 1 failed: FATAL:  no such user')))
    no such user
    """
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    words = _PREFIX.sub("", said[-1] if said[0].startswith("Multiple") else said[0])
    if "password" in words:
        return f"{words}; check the user, and the password in the URL, in PGPASSWORD or in ~/.pgpass"
    if "refused" in words or "timeout" in words or "timed out" in words:
        return f"{words}; does the server run, and may this machine reach it?"
    return words


def _forget_in_children(made: sa.Engine) -> None:
    """A connection shared by two processes would give each the other's answers."""
    if not hasattr(os, "register_at_fork"):
        return
    reference: weakref.ref[Any] = weakref.ref(made)

    def forget() -> None:
        found = reference()
        if found is not None:
            found.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
