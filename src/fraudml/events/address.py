"""Where history is: a file, or a table or query of a database, named by a URL.

::

    postgresql://user@host:5432/database/schema.table
    postgresql://user@host/database?query=SELECT ...
    duckdb:///file.db?table=name
    snowflake://user@account/database/schema/table?warehouse=name
    bigquery://project/dataset/table

The table is the last part of the path, or ``?table=``; ``?query=`` comes last and takes all that follows it. Nothing
here ever repeats a password: neither an error nor a repr.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote_to_bytes

from fraudml.errors import ConfigError

# Scheme -> (how many parts the path has before the table, how a URL looks).
_FORMS = {
    "postgresql": (1, "postgresql://user@host:5432/database/table"),
    "duckdb": (0, "duckdb:///file.db?table=name"),
    "snowflake": (2, "snowflake://user@account/database/schema/table?warehouse=name"),
    "bigquery": (1, "bigquery://project/dataset/table"),
}
_ALIASES = {"postgres": "postgresql"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"password|passwd|pwd|passphrase|passcode|secret|token", re.IGNORECASE)
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SHOWN_SQL = 60  # characters of a query in messages


@dataclass(frozen=True, repr=False, kw_only=True)
class Address:
    """A table or a query of a database; exactly one of ``table`` (its parts) and ``query`` is set.

    ``hosts`` are (name, port or ``""``): several for PostgreSQL's standbys, one or none else. ``places`` are the parts
    of the path before the table: the database of PostgreSQL, the file of DuckDB, and so on. ``parameters`` are the
    driver's own, decoded.

    >>> found = parse("postgresql://me:s3cret@db.example/shop/sales.payments?sslmode=require")
    >>> found.table, found.places, found.parameters
    (('sales', 'payments'), ('shop',), {'sslmode': 'require'})
    >>> print(found, found.public)
    postgresql://me@db.example/shop/sales.payments postgresql://me@db.example/shop/sales.payments?sslmode=require
    """

    scheme: str
    user: str
    password: str
    hosts: tuple[tuple[str, str], ...]
    places: tuple[str, ...]
    table: tuple[str, ...]
    query: str
    parameters: dict[str, str]
    public: str

    def __str__(self) -> str:
        """For messages: without password and parameters, a query cut short."""
        plain, _, parameters = self.public.partition("?")
        if self.query:
            words = " ".join(self.query.split())
            return f"{plain}?query={words[:_SHOWN_SQL]}{'...' if len(words) > _SHOWN_SQL else ''}"
        named = re.search(r"(?:^|&)(table=[^&]*)", parameters)
        return f"{plain}?{named[1]}" if named else plain

    __repr__ = __str__

    def server(self, password: str = "") -> str:
        """The URL of the server or database alone, for its driver; ``password``: where the URL itself has none."""
        secret = self.password or ("" if "password" in self.parameters else password)
        user = quote(self.user, safe="") + (f":{quote(secret, safe='')}" if secret else "")
        hosts = ",".join(_bracketed(name) + (f":{port}" if port else "") for name, port in self.hosts)
        path = "/".join(quote(place, safe="") for place in self.places)
        tail = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.parameters.items())
        return f"{self.scheme}://{user}{'@' if user else ''}{hosts}/{path}{f'?{tail}' if tail else ''}"

    @property
    def stem(self) -> str:
        """A short name, for rows without an id of their own."""
        return self.table[-1] if self.table else "query"

    @property
    def has_secret(self) -> bool:
        """True when the URL carries what :attr:`public` leaves out."""
        return bool(self.password) or any(_SECRET.search(name) for name in self.parameters)


def is_url(text: str) -> bool:
    """True for a URL, of whatever kind; false for the name of a file.

    >>> is_url("postgresql://host/db/table"), is_url("data/*.csv")
    (True, False)
    """
    return _URL.match(text) is not None


def public(text: str) -> str:
    """A file's name as it is, a URL without its password: what may be written down."""
    return parse(text).public if is_url(text) else text


def with_query(text: str, sql: str) -> str:
    """The URL of a database with a query to read instead of a table.

    >>> with_query("postgresql://host/db", "SELECT 1")
    'postgresql://host/db?query=SELECT 1'
    """
    if not is_url(text):
        raise ConfigError("a query needs the URL of a database to be put to, such as postgresql://user@host/database")
    return f"{text}{'&' if '?' in text else '?'}query={sql}"


def parse(text: str) -> Address:
    """Read a URL; raises ConfigError, which never repeats what might be a part of a password.

    >>> parse("duckdb:///shop.db?query=SELECT * FROM t WHERE a LIKE '%20'").query
    "SELECT * FROM t WHERE a LIKE '%20'"
    """
    found = _URL.match(text)
    scheme = found[1].lower() if found else ""
    scheme = _ALIASES.get(scheme, scheme)
    if scheme not in _FORMS:
        raise ConfigError(
            f"nothing is read from {scheme}://; history comes from CSV and Parquet files or from "
            f"{', '.join(f'{known}://' for known in _FORMS)}"
        )
    head, _, tail = text[len(found[0]) if found else 0 :].partition("?")
    before, sql = _cut_query(tail)
    authority, _, path = head.partition("/")
    user_info, _, host_list = authority.rpartition("@")
    if "#" in head + before or "@" in path + before:
        raise _unreadable(scheme, "/, ?, # and @ in a name or a password are written as %2F, %3F, %23 and %40")
    user, _, password = user_info.partition(":")
    parameters = _parameters(scheme, before)
    table_parameter = parameters.pop("table", "")
    parts = [path] if scheme == "duckdb" else [part for part in path.split("/") if part]
    address = Address(
        scheme=scheme,
        user=_decoded(scheme, user),
        password=_decoded(scheme, password),
        hosts=tuple(_host(scheme, host) for host in host_list.split(",") if host),
        places=tuple(_decoded(scheme, part) for part in parts),
        table=(),
        query=_sql(sql),
        parameters=parameters,
        public=_public(scheme, user, host_list, path, before, sql),
    )
    return _with_table(address, table_parameter)


def _with_table(address: Address, parameter: str) -> Address:
    """Tell the table from the rest of the path, and check that the URL names one thing to read."""
    scheme, places = address.scheme, address.places
    depth, form = _FORMS[scheme]
    if scheme == "duckdb" and (address.hosts or not places[0]):
        raise ConfigError(f"write {form}, with three slashes before the file (four before an absolute path)")
    named = parameter
    if not parameter and not address.query and len(places) > depth and scheme != "duckdb":
        *rest, named = places
        places = tuple(rest)
    if bool(named) == bool(address.query):
        raise ConfigError(f"{scheme}:// needs one table or one query to read: write {form} or ...?query=SELECT ...")
    if len(places) != max(depth, 1):
        raise ConfigError(f"the path of {scheme}:// is too {'long' if len(places) > depth else 'short'}: write {form}")
    return replace(address, places=places, table=tuple(named.split(".")) if named else ())


def _cut_query(tail: str) -> tuple[str, str]:
    """What is between ``?`` and ``query=``, and the query."""
    found = re.search(r"(?:^|&)query=", tail)
    return (tail[: found.start()], tail[found.end() :]) if found else (tail, "")


def _sql(text: str) -> str:
    """A query as it is written, or percent-encoded: then nothing in it is white space."""
    sql = text if re.search(r"\s", text) else unquote_to_bytes(text).decode("utf-8", errors="replace")
    return sql.strip().rstrip(";").rstrip()


def _parameters(scheme: str, text: str) -> dict[str, str]:
    found = {}
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if not part:
            continue
        if not equals or not _PARAMETER.fullmatch(name):
            raise _unreadable(scheme, "what follows ? is name=value, joined by &")
        found[name] = _decoded(scheme, value)
    return found


def _host(scheme: str, text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]+))?", text)
    if found is None:
        raise _unreadable(scheme, "a port is a number")
    return _decoded(scheme, found[1].strip("[]")), found[2] or ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host, safe="")


def _decoded(scheme: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise _unreadable(scheme, "a % is written as %25")
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise _unreadable(scheme, "what is percent-encoded is no UTF-8") from None


def _public(scheme: str, user: str, hosts: str, path: str, parameters: str, sql: str) -> str:
    kept = [part for part in parameters.split("&") if part and not _SECRET.search(part.partition("=")[0])]
    if sql:
        kept.append(f"query={sql}")
    tail = f"?{'&'.join(kept)}" if kept else ""
    slash = "/" if path or scheme == "duckdb" else ""
    return f"{scheme}://{user}{'@' if user else ''}{hosts}{slash}{path}{tail}"


def _unreadable(scheme: str, why: str) -> ConfigError:
    return ConfigError(f"the {scheme}:// URL cannot be read: {why}")
