"""Settings to adapters, by name: the one place that knows which technology stands behind a port."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fraudml.adapters.connections import postgres
from fraudml.errors import ConfigError, NotFoundError
from fraudml.events.cards import CardHasher
from fraudml.events.schema import LabelColumn, Schema
from fraudml.events.source import Rejects, TransactionSource
from fraudml.features.spec import AttributeFeature, FeatureSet
from fraudml.features.stores import OfflineStore, OnlineStore
from fraudml.models.registry import CHAMPION, Registry
from fraudml.settings import Settings
from fraudml.wiring_engines import offline_server, open_warehouse
from fraudml.wiring_sources import relations

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine

    from fraudml.adapters.connections.shared_redis import SharedRedis
    from fraudml.adapters.log._migrate import Tables
    from fraudml.decisions.cache import OnOutcome, PredictionCache
    from fraudml.decisions.journal import Journal
    from fraudml.decisions.keys import KeyStore
    from fraudml.decisions.log import DecisionLog
    from fraudml.decisions.model import Model
    from fraudml.decisions.warehouse import Warehouse
    from fraudml.events.profile import TableProfile
    from fraudml.models.bundle import Bundle
    from fraudml.project import Project

MICROSECONDS = 1_000_000
MOST_CODES = 4_000  # of a category; the prediction cache keeps whole numbers apart up to 8,192


def threads(settings: Settings) -> int:
    """Threads for offline work: as set, or all cores this process may use."""
    if settings.threads:
        return settings.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def card_hasher(settings: Settings) -> CardHasher:
    """The hasher of card numbers, under this installation's key."""
    return CardHasher(settings.secret_hash_key())


def profile(settings: Settings, paths: str | Sequence[str]) -> TableProfile:
    """The facts about the columns of files, or of databases' tables or queries, that ``fraudml init`` guesses from."""
    from fraudml.adapters.source import profile as profiler

    options: dict[str, Any] = {"threads": threads(settings), "memory_limit": settings.memory_limit}
    if found := relations(settings, paths):
        return profiler.profile_relations(found, **options)
    return profiler.profile(paths, **options)


def label_purity(
    settings: Settings, paths: str | Sequence[str], label: LabelColumn, columns: Sequence[str]
) -> dict[str, float]:
    """How well each column alone tells the label, from 0 to 1."""
    from fraudml.adapters.source import profile as profiler

    options: dict[str, Any] = {"threads": threads(settings), "memory_limit": settings.memory_limit}
    if found := relations(settings, paths):
        return profiler.label_purity_of_relations(found, label.column, columns, fraud=label.fraud, **options)
    return profiler.label_purity(paths, label.column, columns, fraud=label.fraud, **options)


def source(settings: Settings, schema: Schema, paths: Sequence[str], rejects: Path) -> TransactionSource:
    """History from files, or from the tables or queries of databases that URLs name; broken rows go to ``rejects``."""
    from fraudml.adapters.source.database import DatabaseSource
    from fraudml.adapters.source.files import FileSource

    options: dict[str, Any] = {
        "max_reject_share": settings.max_reject_share,
        "rejects_path": rejects,
        "threads": threads(settings),
        "memory_limit": settings.memory_limit,
    }
    if found := relations(settings, paths):
        return DatabaseSource(found, schema, card_hasher(settings), **options)
    return FileSource(paths, schema, card_hasher(settings), **options)


def offline_store(settings: Settings) -> OfflineStore:
    """An empty offline store: as set, or DuckDB, whose temporary files live in the home directory."""
    if settings.offline_url is not None:
        return offline_server(settings, settings.offline_url.get_secret_value())
    from fraudml.adapters.offline.duckdb import DuckDBOfflineStore

    return DuckDBOfflineStore(
        threads=threads(settings), memory_limit=settings.memory_limit, temp_directory=settings.home / "tmp"
    )


def warehouse(settings: Settings) -> Warehouse:
    """The warehouse that decisions are exported to, connected."""
    return open_warehouse(settings)


class History(NamedTuple):
    """What online state is built from before the log: ``read`` reads it anew, ``rejects`` tells what the last reading
    refused. A reading is opened with its first batch: a start that fails before leaves nothing open."""

    read: Callable[[], Iterator[pa.RecordBatch]]
    rejects: Callable[[], Rejects]


def history(settings: Settings, declared: Project, paths: Sequence[str] | None, rejects: Path) -> History:
    """The files named, else the project's source; nothing for ``[""]``. A source that the project names but that is not
    there is an error: a service with empty windows would score otherwise than the model was trained.
    """
    chosen = declared.source if paths is None else paths
    if not chosen or list(chosen) == [""]:
        return History(lambda: iter(()), lambda: Rejects(0, 0, {}, None))
    found = source(settings, declared.schema, chosen, rejects)

    def read() -> Iterator[pa.RecordBatch]:
        yield from found.read()

    return History(read, found.rejects)


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


def decision_log(settings: Settings, schema: Schema) -> DecisionLog:
    """The decision log. One in SQLite is migrated to this version's tables, one in PostgreSQL if it is empty."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        engine = _log_engine(settings)
        from fraudml.adapters.log.postgres import PostgresDecisionLog

        return PostgresDecisionLog(engine, schema, place=postgres.place(url), timeout_ms=settings.log_timeout_ms)
    _check_sqlite(url)
    from fraudml.adapters.log.sqlite import SqliteDecisionLog
    from fraudml.decisions.log import Durability

    return SqliteDecisionLog(
        url, schema, durability=Durability(settings.durability), timeout_ms=settings.log_timeout_ms
    )


class Database(NamedTuple):
    """A database for decisions: its name for people, and its tables (see :class:`fraudml.adapters.log._migrate.Tables`)
    as they are, or were before :func:`upgrade_database`."""

    place: str
    tables: Tables


def database(settings: Settings) -> Database:
    """Which tables the decision log's database has. Nothing is made or changed."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        from fraudml.adapters.log.postgres import upgrade

        with _disposed(_log_engine(settings)) as engine:
            return Database(postgres.place(url), upgrade.tables(engine))
    _check_sqlite(url)
    from fraudml.adapters.log import _connection

    return Database(str(_connection.database_file(url)), _connection.tables(url))


def upgrade_database(settings: Settings) -> Database:
    """Bring the decision log's database to this version's tables."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        from fraudml.adapters.log.postgres import upgrade

        with _disposed(_log_engine(settings)) as engine:
            return Database(postgres.place(url), upgrade.upgrade(engine, postgres.place(url)))
    before = database(settings)
    from fraudml.adapters.log import _connection

    _connection.connect(url).dispose()
    return before


def _log_engine(settings: Settings) -> Engine:
    pool = postgres.Pool(
        settings.db_pool_size,
        settings.db_pool_overflow,
        settings.db_pool_recycle_s,
        settings.db_pool_timeout_ms / 1_000,
    )
    return postgres.engine(settings.log_url(), pool)


@contextmanager
def _disposed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def _check_sqlite(url: str) -> None:
    if not url.startswith("sqlite:"):
        raise ConfigError("FRAUDML_DATABASE_URL must start with sqlite:// or postgresql://")


def journals(settings: Settings, schema: Schema) -> tuple[Journal, list[Journal]]:
    """Where this process keeps decisions while the decision log cannot take them, and the journals that processes of
    this home directory which ended have left.

    A database inside the home directory is told by its path in there, so that home can be moved or restored elsewhere;
    one in PostgreSQL by host, port and name, so that its password can change.
    """
    from fraudml.adapters.log import journal
    from fraudml.decisions.log import WRITERS

    home, url = settings.home.resolve(), settings.log_url()
    place = f"postgresql://{postgres.place(url)}" if postgres.is_postgres(url) else _place_of_file(home, url)
    name = f"decisions-{sha256(place.encode()).hexdigest()[:12]}.journal"
    own, left = journal.claim(home / "journal" / name, names(schema), WRITERS)
    return own, [*left]


def names(schema: Schema) -> list[str]:
    """What tells the values of a transaction apart: those of other names cannot be read as ours."""
    entities = [f"entity {entity}" for entity in schema.entity_names]
    return entities + [f"attribute {attribute}" for attribute in schema.attribute_names]


def _place_of_file(home: Path, url: str) -> str:
    from fraudml.adapters.log._connection import database_file

    file = database_file(url).resolve()
    return (file.relative_to(home) if file.is_relative_to(home) else file).as_posix()


@contextmanager
def keys(settings: Settings, schema: Schema) -> Iterator[KeyStore]:
    """The API keys, kept beside the decision log."""
    log = decision_log(settings, schema)
    try:
        yield log.keys
    finally:
        log.close()


def registry(settings: Settings) -> Registry:
    """The model registry."""
    from fraudml.adapters.registry.mlflow import MlflowRegistry

    return MlflowRegistry(settings.registry_url, home=settings.home, model_name=settings.model_name)


def champion(settings: Settings, feature_set: FeatureSet, name: str = CHAMPION) -> Bundle:
    """The verified bundle that serves (or another, by alias or version number)."""
    named, load = _versions(settings, feature_set, name)
    return load(named())


def _versions(
    settings: Settings, feature_set: FeatureSet, name: str
) -> tuple[Callable[[], str], Callable[[str], Bundle]]:
    """Two calls over one connection: the version that a name means now, and the verified bundle of a version."""
    from fraudml.models import bundle

    models = registry(settings)

    def named() -> str:
        try:
            return str(models.resolve(name).version)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; train one with: fraudml train") from None

    def load(version: str) -> Bundle:
        return bundle.load(models.fetch(int(version)), expect=feature_set, version=version)

    return named, load


class ModelSource(NamedTuple):
    """Models as they serve: ``load(named())`` is the one that the alias or number means now.

    ``named`` raises ``NotFoundError`` and ``RegistryError``; ``load`` also ``BundleError``, when the version must not
    serve. They share one connection, and all models one prediction cache.
    """

    named: Callable[[], str]
    load: Callable[[str], Model]


def model_source(
    settings: Settings,
    feature_set: FeatureSet,
    name: str = CHAMPION,
    on_cache: OnOutcome | None = None,
    shared: SharedRedis | None = None,
) -> ModelSource:
    """Where a scoring process gets its models; ``on_cache`` is told how look-ups in the prediction cache ended, which
    is in ``shared`` where that is given."""
    from fraudml.decisions.cache import ScoreCache
    from fraudml.decisions.model import Model
    from fraudml.decisions.policy import Policy, WhenDegraded

    named, load = _versions(settings, feature_set, name)
    held = prediction_cache(settings, feature_set, shared)
    cache = ScoreCache(held, on_cache) if held is not None else None

    def loaded(version: str) -> Model:
        bundle = load(version)
        policy = Policy.of(bundle.manifest.thresholds, WhenDegraded(settings.when_degraded))
        return Model(bundle, policy, cache=cache)

    return ModelSource(named, loaded)


def prediction_cache(
    settings: Settings, feature_set: FeatureSet, shared: SharedRedis | None = None
) -> PredictionCache | None:
    """The prediction cache, or ``None``: as set, by default only where no input of the model comes from history, nor
    from a category of more than :data:`MOST_CODES` values.

    What comes from history differs with each transaction, so such a model's inputs hardly ever repeat. And while the
    cache is on inputs are quantised: large codes, which name values that have nothing in common, would become one.
    """
    from fraudml.adapters.cache.memory import MemoryPredictionCache
    from fraudml.adapters.cache.redis import RedisPredictionCache

    history = {feature.name for feature in feature_set.state_features}
    attributes = feature_set.schema.attributes
    large = {name for name, attribute in attributes.items() if len(attribute.vocabulary) > MOST_CODES}
    coded = {f.name for f in feature_set.features if isinstance(f, AttributeFeature) and f.of in large}
    unfit = bool((history | coded) & feature_set.needed_by(feature_set.input_names))
    if settings.cache == "off" or (settings.cache == "auto" and unfit):
        return None
    if shared is not None:
        return RedisPredictionCache(shared, settings.cache_size, settings.cache_ttl_s)
    return MemoryPredictionCache(settings.cache_size, settings.cache_ttl_s)
