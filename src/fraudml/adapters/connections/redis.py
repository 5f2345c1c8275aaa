"""A client of Redis (or Valkey), alone or a cluster, from a URL."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from fraudml.adapters.connections.guard import Guard
from fraudml.errors import ConfigError, MissingExtra

try:
    from redis import Redis, exceptions
    from redis.backoff import ExponentialWithJitterBackoff
    from redis.cluster import RedisCluster
    from redis.connection import parse_url
    from redis.retry import Retry
except ImportError:  # told where it is used
    Redis = None  # type: ignore[assignment,misc]

CONNECT_S = 2.0  # at most, to open a connection
RETRIES = 2  # of a call on a connection that broke; all of them within the caller's deadline or nearly so
BACKOFF_LEAST_S = 0.01
BACKOFF_MOST_S = 0.1
POOL = 64  # connections of this process at most
NO_URL = "FRAUDML_REDIS_URL is no URL of Redis: write redis://host:6379/0 or rediss://..."

Client = Any  # redis.Redis or redis.cluster.RedisCluster: what fraudml calls, both have


def connector(url: str, timeout_ms: int) -> Callable[[], Client]:
    """What makes a client of its own without retries, for callers that see to deadlines and retries themselves.

    Raises what :func:`client` raises, at once; a cluster is asked for its nodes only when the client is made.
    """
    if Redis is None:
        raise MissingExtra("redis")
    if _without_cluster(url)[1]:
        return partial(client, url, timeout_ms, retries=0)
    made = client(url, timeout_ms, retries=0)
    return lambda: made


def client(url: str, timeout_ms: int, *, retries: int = RETRIES) -> Client:
    """A client whose calls each end within about ``timeout_ms``. Nothing is sent yet, except by a cluster's client.

    ``url``: ``redis://host:6379/0``, ``rediss://`` for TLS; ``?cluster=true`` for a cluster. A broken connection is
    opened again after a back-off with jitter, so that many processes do not come back at the same moment. Raises
    ``ConfigError`` for a URL that names no Redis, ``MissingExtra`` without the package.
    """
    if Redis is None:
        raise MissingExtra("redis")
    plain, cluster = _without_cluster(url)
    timeout_s = timeout_ms / 1_000
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(CONNECT_S, timeout_s),
        "health_check_interval": 30,
        "max_connections": POOL,
        "client_name": "fraudml",
    }
    backoff = ExponentialWithJitterBackoff(base=BACKOFF_LEAST_S, cap=BACKOFF_MOST_S)
    try:
        if cluster:
            return RedisCluster.from_url(plain, retry=Retry(backoff, retries), **options)
        # a server that hangs would hang again: only a connection that broke is worth another attempt
        return Redis.from_url(plain, retry=Retry(backoff, retries, (exceptions.ConnectionError,)), **options)
    except ValueError:  # its text may repeat the URL
        raise ConfigError(NO_URL) from None


def guarded(url: str, timeout_ms: int) -> Guard:
    """A client for what decisions can do without, see :class:`Guard`; raises as :func:`client` does.

    Nothing is sent before the first call.
    """
    if Redis is None:
        raise MissingExtra("redis")
    plain, cluster = _without_cluster(url)
    try:
        parse_url(plain)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ConfigError(NO_URL) from None
    # A cluster's client retries what timed out, too, and asks all nodes for the slots each time. The guard retries.
    retries = 0 if cluster else 1
    gone = (
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ClusterError,
        exceptions.RedisClusterException,
        OSError,
    )
    return Guard("Redis", lambda: client(url, timeout_ms, retries=retries), gone, (exceptions.RedisError,))


def _without_cluster(url: str) -> tuple[str, bool]:
    """The URL without our own parameter, and whether that was set.

    >>> _without_cluster("redis://host:7000?cluster=true")
    ('redis://host:7000', True)
    """
    parts = urlsplit(url)
    words = parse_qsl(parts.query)
    cluster = dict(words).get("cluster", "").lower() in ("true", "1", "yes")
    rest = urlencode([(name, value) for name, value in words if name != "cluster"])
    return urlunsplit(parts._replace(query=rest)), cluster
