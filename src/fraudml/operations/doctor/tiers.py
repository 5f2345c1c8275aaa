"""Which tier of operation the settings amount to, and what is missing for the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from fraudml.operations.doctor.findings import Finding, Status

NAMES = {1: "development", 2: "early production", 3: "scale-up", 4: "enterprise"}


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The kinds of backends that the settings choose: ``sqlite`` or ``postgresql``; ``duckdb``, ``postgresql``,
    ``spark``, ``snowflake`` or ``bigquery``; a warehouse may also be files: ``s3`` and the like."""

    log: str = "sqlite"
    redis: bool = False
    cluster: bool = False
    kafka: bool = False
    offline: str = "duckdb"
    warehouse: str | None = None
    hash_key: bool = False


class Need(NamedTuple):
    """Something that the next tier needs, and the setting that names it."""

    what: str
    setting: str


class Tier(NamedTuple):
    """A tier, and what the next one needs."""

    number: int
    missing: list[Need]

    @property
    def name(self) -> str:
        """What it is called."""
        return NAMES[self.number]


def tier(chosen: Chosen) -> Tier:
    """The highest tier that the settings have everything for.

    >>> tier(Chosen()).number, tier(Chosen(log="postgresql")).number
    (1, 2)
    >>> tier(Chosen()).missing
    [Need(what='PostgreSQL', setting='FRAUDML_DATABASE_URL=postgresql://user@host:5432/database')]
    """
    needs = {
        2: [
            (
                chosen.log == "postgresql",
                Need("PostgreSQL", "FRAUDML_DATABASE_URL=postgresql://user@host:5432/database"),
            )
        ],
        3: [
            (chosen.redis, Need("Redis: services share features", "FRAUDML_REDIS_URL=redis://host:6379/0")),
            (
                chosen.kafka,
                Need("Kafka: transactions come as a stream", "FRAUDML_KAFKA_BOOTSTRAP_SERVERS=host:9092"),
            ),
            (
                chosen.offline not in ("duckdb", "postgresql"),
                Need("an engine for more history than one machine computes", "FRAUDML_OFFLINE_URL=spark://host:7077"),
            ),
        ],
        4: [
            (chosen.cluster, Need("a Redis cluster", "FRAUDML_REDIS_URL=redis://host:6379?cluster=true")),
            (
                chosen.warehouse is not None,
                Need("a warehouse", "FRAUDML_WAREHOUSE_URL=snowflake://..., bigquery://... or s3://..."),
            ),
        ],
    }
    for number, conditions in needs.items():
        missing = [need for is_there, need in conditions if not is_there]
        if missing:
            return Tier(number - 1, missing)
    return Tier(max(needs), [])


def judge(chosen: Chosen) -> Iterator[Finding]:
    """The tier, what is missing for the next, and settings that do not go together."""
    found = tier(chosen)
    yield Finding("settings", Status.ok, f"tier {found.number}, {found.name}")
    for need in found.missing:
        yield Finding("settings", Status.note, f"tier {found.number + 1} also needs {need.what}", need.setting)
    if chosen.redis and chosen.log == "sqlite":
        yield Finding(
            "settings",
            Status.note,
            "features are in Redis, but only one process may write to a SQLite log",
            "for several services set FRAUDML_DATABASE_URL=postgresql://...",
        )
    if chosen.redis and chosen.log == "postgresql" and not chosen.hash_key:
        yield Finding(
            "settings",
            Status.warning,
            "each machine makes a key of its own for card numbers, so one card gets several tokens",
            "set FRAUDML_HASH_KEY to the same value everywhere, or share the home directory",
        )
