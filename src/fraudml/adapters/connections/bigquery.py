"""A client of BigQuery from a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from fraudml.errors import ConfigError, MissingExtra

FORM = "bigquery://project/dataset?location=EU&credentials_path=/path/key.json"
WORDS = {"location", "credentials_path", "api_endpoint"}
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Session(NamedTuple):
    """``client``: a ``google.cloud.bigquery.Client``; ``dataset``: ``project.dataset``; ``storage``: a client of the
    Storage Read API where its package is installed: it is faster for large results."""

    client: Any
    storage: Any
    dataset: str


def connector(url: str, setting: str) -> Callable[[], Session]:
    """A function that makes clients; it raises the library's errors when there are no credentials.

    ``url``: of the form :data:`FORM`. Without ``credentials_path`` the credentials are those of the environment, as for
    every program that uses Google's libraries. ``setting``: where the URL is from. Raises ``ConfigError`` and
    ``MissingExtra``.
    """
    try:
        from google import auth
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery
    except ImportError:
        raise MissingExtra("bigquery") from None
    project, dataset, words = parameters(url, setting)
    library: Any = auth  # it has no types
    anonymous: Any = AnonymousCredentials

    def connect() -> Session:
        path, endpoint = words.get("credentials_path"), words.get("api_endpoint")
        if path:
            credentials, _ = library.load_credentials_from_file(path, scopes=[SCOPE])
        elif endpoint:  # an emulator
            credentials = anonymous()
        else:
            credentials, _ = library.default(scopes=[SCOPE])
        options = {"api_endpoint": endpoint} if endpoint else None
        client = bigquery.Client(project, credentials, location=words.get("location"), client_options=options)
        return Session(client, None if endpoint else _storage(credentials), f"{project}.{dataset}")

    return connect


def parameters(url: str, setting: str) -> tuple[str, str, dict[str, str]]:
    """Project, data set and further words of a URL.

    >>> parameters("bigquery://acme-risk/fraud?location=EU", "X")
    ('acme-risk', 'fraud', {'location': 'EU'})
    """
    wrong = ConfigError(f"{setting} is no URL of BigQuery: write {FORM}")
    try:
        parts = urlsplit(url)
        words = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise wrong from None
    path = [unquote(part) for part in parts.path.split("/") if part]
    if parts.scheme != "bigquery" or not parts.netloc or len(path) != 1 or set(words) - WORDS:
        raise wrong
    return parts.netloc, path[0], words


def _storage(credentials: Any) -> Any:
    try:
        from google.cloud.bigquery_storage import BigQueryReadClient
    except ImportError:
        return None
    return BigQueryReadClient(credentials=credentials)
