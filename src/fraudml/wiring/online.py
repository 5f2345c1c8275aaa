"""Where online state is kept."""

from __future__ import annotations

from fraudml.features.spec import FeatureSet
from fraudml.features.stores import OnlineStore
from fraudml.project import Project
from fraudml.settings import Settings

MICROSECONDS = 1_000_000


def online_store(settings: Settings, feature_set: FeatureSet) -> OnlineStore:
    """The online store: shared in Redis when its URL is set, else an empty one in this process."""
    if settings.redis_url is None:
        from fraudml.adapters.online.memory import MemoryOnlineStore

        return MemoryOnlineStore(feature_set, lateness_us=lateness_us(settings))
    from fraudml.adapters.connections import redis

    url, timeout_ms = settings.redis_url.get_secret_value(), settings.redis_timeout_ms
    connect = redis.connector(url, timeout_ms)  # first: it tells when the driver is missing
    from fraudml.adapters.online.redis import RedisOnlineStore

    return RedisOnlineStore(
        feature_set,
        connect,
        project=settings.model_name,
        lateness_us=lateness_us(settings),
        ahead_us=int(settings.max_ahead_s * MICROSECONDS),
        timeout_ms=timeout_ms,
    )


def lateness_us(settings: Settings) -> int:
    """How far behind the newest event online state is exact."""
    return int(settings.lateness_s * MICROSECONDS)


def reach_us(settings: Settings, declared: Project) -> int:
    """How long ago an event can have been decided that features of today may see, in microseconds."""
    horizon_us = max(map(declared.feature_set.horizon_us, declared.schema.entity_names), default=0)
    return horizon_us + lateness_us(settings) + int(settings.max_ahead_s * MICROSECONDS)


def kept_at_least_us(settings: Settings, declared: Project) -> int:
    """How long decisions must be kept, in microseconds: labels come late, and windows over them begin then."""
    label = declared.schema.label
    return reach_us(settings, declared) + (0 if label is None else label.delay_us)
