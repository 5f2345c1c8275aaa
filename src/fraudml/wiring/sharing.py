"""Settings to what processes share through Redis besides features: recent decisions, rate limits."""

from __future__ import annotations

import platform
from hashlib import sha256
from typing import TYPE_CHECKING

from fraudml.adapters.connections import postgres
from fraudml.events.schema import Schema
from fraudml.settings import Settings
from fraudml.wiring.log import names

__all__ = ["SharedRedis", "recent_decisions", "shared_redis", "token_bank"]

if TYPE_CHECKING:
    from fraudml.adapters.connections.shared_redis import SharedRedis
    from fraudml.adapters.limits.redis import RedisTokenBank
    from fraudml.decisions.cache import OnOutcome
    from fraudml.decisions.recent import RecentDecisions


def shared_redis(settings: Settings) -> SharedRedis | None:
    """Redis for what decisions can do without: a process has one for all of that, and closes it."""
    if settings.redis_url is None:
        return None
    from fraudml.adapters.connections import shared_redis as redis

    return redis.shared_redis(settings.redis_url.get_secret_value(), settings.redis_timeout_ms)


def recent_decisions(
    settings: Settings, schema: Schema, shared: SharedRedis | None, on_outcome: OnOutcome
) -> RecentDecisions | None:
    """Where replicas find each other's recent decisions, if they share something; ``on_outcome`` is told what became of
    them."""
    if shared is None:
        return None
    from fraudml.adapters.recent.redis import RedisRecentDecisions

    place = namespace(settings, "recent", *names(schema))
    return RedisRecentDecisions(
        shared, place, ttl_s=settings.recent_ttl_s, most=settings.recent_size, on_outcome=on_outcome
    )


def token_bank(settings: Settings, shared: SharedRedis | None) -> RedisTokenBank | None:
    """The buckets of API keys that replicas share, if they share something and there is a limit."""
    if shared is None or not settings.rate_limit_per_s:
        return None
    from fraudml.adapters.limits.redis import RedisTokenBank

    return RedisTokenBank(shared, namespace(settings, "rate"), settings.rate_limit_per_s)


def namespace(settings: Settings, role: str, *parts: str) -> str:
    """A name for what the processes of one decision log share in Redis, which others may use as well.

    A database counts by host, port and name, as replicas may have users of their own; a file with its machine.
    """
    url = settings.log_url()
    if postgres.is_postgres(url):
        database = postgres.place(url)
    else:
        from fraudml.adapters.log._connection import database_file

        database = f"{platform.node()}:{database_file(url).resolve()}"
    told = "\n".join([database, settings.model_name, *parts])
    return f"{role}:{sha256(told.encode()).hexdigest()[:16]}"
