"""Facts about Kafka: for ``fraudml doctor``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from fraudml.adapters.stream.admin import Administration, Cluster
from fraudml.adapters.stream.connection import Config
from fraudml.decisions.servers import ServerFacts, Trouble
from fraudml.errors import StreamError

PINGS = 5
MISSING = "missing_topics"


def facts(config: Config, topics: Sequence[str], timeout_s: float) -> ServerFacts | Trouble:
    """What is there, and which of these topics are not."""
    administration = Administration(config, timeout_s)
    try:
        cluster = administration.cluster()
        latency_ms = statistics.median(_ping_ms(administration) for _ in range(PINGS))
    except StreamError as error:
        why, _, do = str(error).partition("; ")
        return Trouble(why, do or "see the broker's log")
    return ServerFacts(
        place=str(config["bootstrap.servers"]),
        product="Kafka",
        version=_told(cluster),
        latency_ms=latency_ms,
        details={MISSING: ", ".join(topic for topic in topics if topic not in cluster.topics)},
    )


def _told(cluster: Cluster) -> str:
    count = len(cluster.brokers)
    return f"with {count} broker{'s' if count > 1 else ''}"


def _ping_ms(administration: Administration) -> float:
    started = time.perf_counter()
    administration.cluster()
    return (time.perf_counter() - started) * 1_000
