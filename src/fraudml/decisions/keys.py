"""API keys, and the port of the store that holds them."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

import msgspec

from fraudml.errors import ConfigError

PREFIX = "fml_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """What a key may do."""

    score = "score"  # predict, batch-predict, explain
    label = "label"  # report labels
    read = "read"  # read decisions, and the metrics from other machines
    admin = "admin"  # all of the above


class ApiKey(msgspec.Struct, frozen=True):
    """A key as it is stored: never the token itself. Times are microseconds UTC; ``None``: not revoked, or
    without an end."""

    name: str
    token_hash: bytes
    scopes: tuple[Scope, ...]
    created_at_us: int
    revoked_at_us: int | None = None
    expires_at_us: int | None = None

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at_us is not None and self.expires_at_us <= time.time_ns() // 1_000

    def allows(self, scope: Scope) -> bool:
        """Whether the key may do this."""
        return scope in self.scopes or Scope.admin in self.scopes


class KeyStore(Protocol):
    """Where API keys are kept. Raises ``DecisionLogError`` when the backend fails."""

    def add(self, key: ApiKey) -> None:
        """Store a new key; raises ``ConflictError`` when the name is taken, by a revoked key too."""
        ...

    def all(self) -> list[ApiKey]:
        """All keys, revoked ones included, oldest first."""
        ...

    def revoke(self, name: str) -> None:
        """Mark a key revoked, now; a revoked one stays as it is. Raises ``NotFoundError``."""
        ...


def hash_token(token: str) -> bytes:
    """SHA-256 of a token.

    A slow password hash would protect guessable secrets; these have 256 random bits, which no one guesses
    from the hash, so a fast one is safe, and it is paid on every request.
    """
    return hashlib.sha256(token.encode()).digest()


def new_key(name: str, scopes: Iterable[Scope], lasts_us: int | None = None) -> tuple[str, ApiKey]:
    """A fresh token and the key to store; the token is shown once and kept nowhere. ``lasts_us``: after which it ends.

    >>> token, key = new_key("laptop", [Scope.score])
    >>> token.startswith("fml_"), key.token_hash == hash_token(token), key.allows(Scope.label)
    (True, True, False)
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a key: use up to 64 letters, digits, dots, dashes and _")
    wanted = set(scopes)
    if not wanted:
        raise ConfigError(f"the key {name!r} needs a scope: {', '.join(Scope)}")
    token = PREFIX + secrets.token_urlsafe(32)
    ordered = tuple(scope for scope in Scope if scope in wanted)
    now_us = time.time_ns() // 1_000
    expires_at_us = None if lasts_us is None else now_us + lasts_us
    return token, ApiKey(name, hash_token(token), ordered, now_us, expires_at_us=expires_at_us)
