"""API keys: who may do what."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Iterable, Mapping

from fastapi import Request

from fraudml.decisions.keys import ApiKey, KeyStore, Scope, hash_token
from fraudml.errors import DecisionLogError, FraudmlError
from fraudml.service.limits import RateLimiter
from fraudml.service.problems import ProblemError
from fraudml.service.threads import SharedCall

KEYS_TTL_S = 2.0  # a revoked key stops working within this time and that of one read
READ_WITHIN_S = 1.0  # how long a request waits for a read
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

RawHeaders = Iterable[tuple[bytes, bytes]]

logger = logging.getLogger(__name__)


class Keyring:
    """The keys in memory, read again by the first request after every :data:`KEYS_TTL_S`. Used from one event loop.

    Only that request waits for the read; others go on with the keys known. While a read hangs there is no second one.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._keys: dict[bytes, ApiKey] | None = None
        self._fresh_at = -math.inf  # when the read began that the keys are from, or when one failed
        self._failing = False
        self._reading = SharedCall(self._read)

    async def find(self, token: str) -> ApiKey | None:
        """The valid key of a token; raises DecisionLogError when no keys could be read yet."""
        if time.monotonic() - self._fresh_at > KEYS_TTL_S and not (self._keys is not None and self._reading.under_way):
            await self._refresh()
        # By the hash of what was sent: how long this takes tells nothing that would help to guess a token.
        return self._valid(self._keys or {}, token)

    def known(self, token: str) -> ApiKey | None:
        """The valid key of a token as far as that is known without asking the store."""
        if self._keys is None or time.monotonic() - self._fresh_at > KEYS_TTL_S:
            return None
        return self._valid(self._keys, token)

    @staticmethod
    def _valid(keys: Mapping[bytes, ApiKey], token: str) -> ApiKey | None:
        key = keys.get(hash_token(token))
        return None if key is None or key.expired else key

    async def _refresh(self) -> None:
        try:
            await self._reading.result(READ_WITHIN_S)
        except Exception as error:  # of any kind: a defect in reading must not lock everyone out
            if self._keys is None:
                if isinstance(error, (DecisionLogError, TimeoutError)):
                    raise DecisionLogError(f"the API keys cannot be read: {error}") from error
                raise
            self._fresh_at = time.monotonic()
            if not self._failing:
                unforeseen = None if isinstance(error, (FraudmlError, TimeoutError)) else error
                logger.warning("API keys cannot be read, those known stay valid: %s", error, exc_info=unforeseen)
            self._failing = True

    def _read(self) -> None:
        """In a thread; what it reads counts also when nobody waits for it any more."""
        began = time.monotonic()
        self._keys = {key.token_hash: key for key in self._store.all() if key.revoked_at_us is None}
        self._fresh_at = began
        if self._failing:
            logger.info("API keys can be read again")
        self._failing = False


class Guard:
    """Decides on every request but those for health."""

    def __init__(self, keyring: Keyring, limit: RateLimiter) -> None:
        self._keyring = keyring
        self.limit = limit

    async def require(self, request: Request, scope: Scope) -> ApiKey:
        """The key of the request; 401 without a valid one, 403 when it may not do this."""
        key = await self.admit(request.scope["headers"], scope)
        request.state.key = key.name
        return key

    async def admit(self, headers: RawHeaders, scope: Scope) -> ApiKey:
        """The same from headers as ASGI has them."""
        token = token_of(headers)
        if token is None:
            raise _unauthorized(
                "send an API key as 'Authorization: Bearer fml_...' or 'X-API-Key: fml_...'; "
                "make one with: fraudml keys create NAME"
            )
        key = await self._keyring.find(token)
        if key is None:
            raise _unauthorized("this API key is not valid, has expired or was revoked")
        if not key.allows(scope):
            raise ProblemError(403, f"the key {key.name!r} may not do this; it needs the scope '{scope}'")
        return key

    def known(self, headers: RawHeaders, scope: Scope) -> ApiKey | None:
        """The key of a request that may do this, where that can be told at once; ``None`` says nothing."""
        token = token_of(headers)
        key = None if token is None else self._keyring.known(token)
        return key if key is not None and key.allows(scope) else None

    async def require_unless_local(self, request: Request) -> None:
        """For metrics and documentation: free from this machine, elsewhere a key with the scope ``read``.

        What a proxy passes on comes from its clients, wherever the proxy runs.
        """
        forwarded = any(name in request.headers for name in _FORWARDED)
        if forwarded or request.client is None or not is_loopback(request.client.host):
            await self.require(request, Scope.read)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("192.0.2.1")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard_of(request: Request) -> Guard:
    """The guard of the app that serves this request."""
    guard: Guard = request.app.state.guard
    return guard


def token_of(headers: RawHeaders) -> str | None:
    """The token that a request sends, as a bearer or in a header of its own.

    >>> token_of([(b"authorization", b"Bearer fml_a")]), token_of([(b"x-api-key", b"fml_b")]), token_of([])
    ('fml_a', 'fml_b', None)
    """
    found = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := credentials.strip()):
                return token.decode("latin-1")
        elif name == b"x-api-key" and value:
            found = value.decode("latin-1")
    return found


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(401, detail, {"WWW-Authenticate": "Bearer"})
