"""One connection to PostgreSQL for work that takes minutes and streams: no pool, no limit for a statement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fraudml.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import psycopg

# What a URL may say otherwise. A peer that is gone is noticed within about a minute.
PARAMETERS = {
    "application_name": "fraudml",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def connector(url: str, setting: str) -> Callable[[], psycopg.Connection[Any]]:
    """A function that connects; nothing is opened before it is called, and it raises the driver's errors.

    ``url``: ``postgresql://user:password@host:5432/database``; what it does not say is taken from ``PGHOST``,
    ``PGPASSWORD``, ``~/.pgpass`` and so on, as ``psql`` does. ``setting``: where the URL is from. Raises
    ``ConfigError``, which never repeats the URL, and ``MissingExtra``.
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
        words: dict[str, Any] = PARAMETERS | conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
    except psycopg.Error:  # its text may repeat the URL
        raise wrong from None
    # an @ or a / that belongs to the password: what comes after it is taken for host, port or database, and would be
    # told as such
    places = [str(words.get(name, "")) for name in ("host", "dbname")]
    ports = str(words.get("port", "")).replace(",", "")
    if any("@" in place for place in places) or (ports and not ports.isdigit()):
        raise wrong
    return lambda: psycopg.connect(**{**words, "client_encoding": "UTF8"}, autocommit=True)
