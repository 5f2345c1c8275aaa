"""Settings to adapters, by name: the one place that knows which technology stands behind a port.

A module for each part of an installation. Drivers are imported when their backend is asked for.
"""

from fraudml.wiring.databases import Database, database, remove_old, removed_before_us, replicas, upgrade_database
from fraudml.wiring.engines import exported_files, local_store, offline_store, threads, warehouse
from fraudml.wiring.locks import only_one
from fraudml.wiring.log import decision_log, journals, keys
from fraudml.wiring.models import (
    MOST_CODES,
    ModelSource,
    champion,
    model_source,
    prediction_cache,
    registry,
    registry_apart,
)
from fraudml.wiring.online import kept_at_least_us, lateness_us, online_store, reach_us
from fraudml.wiring.pinned import pinned
from fraudml.wiring.receivers import http_receiver, kafka_receiver
from fraudml.wiring.sharing import recent_decisions, shared_redis, token_bank
from fraudml.wiring.sources import History, card_hasher, history, label_purity, profile, source
from fraudml.wiring.stream import kafka, stream, workers_groups
from fraudml.wiring.topics import (
    administration,
    dead_letter_group,
    dead_letter_topics,
    mover,
    stream_topics,
    topic_reader,
    waits_since,
)

__all__ = [
    "MOST_CODES",
    "Database",
    "History",
    "ModelSource",
    "administration",
    "card_hasher",
    "champion",
    "database",
    "dead_letter_group",
    "dead_letter_topics",
    "decision_log",
    "exported_files",
    "history",
    "http_receiver",
    "journals",
    "kafka",
    "kafka_receiver",
    "kept_at_least_us",
    "keys",
    "label_purity",
    "lateness_us",
    "local_store",
    "model_source",
    "mover",
    "offline_store",
    "online_store",
    "only_one",
    "pinned",
    "prediction_cache",
    "profile",
    "reach_us",
    "recent_decisions",
    "registry",
    "registry_apart",
    "remove_old",
    "removed_before_us",
    "replicas",
    "shared_redis",
    "source",
    "stream",
    "stream_topics",
    "threads",
    "token_bank",
    "topic_reader",
    "upgrade_database",
    "waits_since",
    "warehouse",
    "workers_groups",
]
