"""One connection to PostgreSQL for work that takes minutes and streams: no pool, no limit for a statement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fraudml.adapters.connections import postgres

if TYPE_CHECKING:
    import psycopg

# What a URL may say otherwise.
PARAMETERS = postgres.PARAMETERS | {"connect_timeout": "10"}


def connector(url: str, setting: str) -> Callable[[], psycopg.Connection[Any]]:
    """A function that connects; nothing is opened before it is called, and it raises the driver's errors.

    ``setting``: where the URL is from. Raises ``ConfigError`` and ``MissingExtra``, as ``postgres.parameters`` does.
    """
    words: dict[str, Any] = PARAMETERS | postgres.parameters(url, setting)
    import psycopg

    return lambda: psycopg.connect(**words, autocommit=True)
