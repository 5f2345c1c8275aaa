"""The API keys, beside the decision log, in any database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from fraudml.adapters.log._tables import api_keys
from fraudml.decisions.keys import ApiKey, Scope
from fraudml.errors import ConflictError, NotFoundError


class SqlKeyStore:
    """:class:`fraudml.decisions.keys.KeyStore` in the database that ``engine`` is connected to.

    ``failures`` turns the driver's errors into ``DecisionLogError``; it is told what was being done.
    """

    def __init__(self, engine: sa.Engine, failures: Callable[[str], AbstractContextManager[None]]) -> None:
        self._failures = failures
        self._engine = engine
        self._writer = engine.execution_options(immediate=True)

    def add(self, key: ApiKey) -> None:
        """Store a key."""
        row = {
            "name": key.name,
            "token_hash": key.token_hash,
            "scopes": " ".join(key.scopes),
            "created_at_us": key.created_at_us,
            "revoked_at_us": key.revoked_at_us,
            "expires_at_us": key.expires_at_us,
        }
        with self._failures("writing keys"), self._writer.begin() as connection:
            try:
                connection.execute(api_keys.insert(), row)
            except IntegrityError:
                raise ConflictError(f"there is a key named {key.name!r} already; choose another name") from None

    def all(self) -> list[ApiKey]:
        """Every key."""
        with self._failures("reading keys"), self._engine.connect() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at_us, api_keys.c.name)).all()
            return [ApiKey(r.name, r.token_hash, tuple(Scope(s) for s in r.scopes.split()), *r[3:]) for r in rows]

    def revoke(self, name: str) -> None:
        """Revoke a key."""
        change = (
            api_keys.update()
            .where(api_keys.c.name == name)
            .values(revoked_at_us=sa.func.coalesce(api_keys.c.revoked_at_us, time.time_ns() // 1_000))
        )
        with self._failures("writing keys"), self._writer.begin() as connection:
            if connection.execute(change).rowcount == 0:
                raise NotFoundError(f"there is no key named {name!r}")
