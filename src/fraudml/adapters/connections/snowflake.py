"""A connection to Snowflake from a URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from fraudml.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

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
    "paramstyle": "qmark",
    "login_timeout": 30,
    "network_timeout": 120,  # of one request, retries included; a query that takes longer is asked after again
    "client_session_keep_alive": True,
    "session_parameters": {
        "QUERY_TAG": "fraudml",
        "DEFAULT_DDL_COLLATION": "",  # text is compared by code point, whatever the account's default
        "TIMEZONE": "UTC",
        "CLIENT_TELEMETRY_ENABLED": False,
        "CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False,
    },
}


def connector(url: str, setting: str) -> Callable[[], SnowflakeConnection]:
    """A function that connects; nothing is opened before it is called, and it raises the driver's errors.

    ``url``: of the form :data:`FORM`; further words are the driver's arguments of that name (:data:`TEXTS`,
    :data:`NUMBERS`). What it does not say the driver takes from ``connections.toml`` when ``connection_name`` is given.
    ``setting``: where the URL is from. Raises ``ConfigError``, which never repeats it, and ``MissingExtra``.
    """
    try:
        import snowflake.connector
    except ImportError:
        raise MissingExtra("snowflake") from None
    arguments = OPTIONS | parameters(url, setting)
    return lambda: snowflake.connector.connect(**arguments)


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
