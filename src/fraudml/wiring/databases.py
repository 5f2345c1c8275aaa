"""The decision log's database: its tables, TimescaleDB in it, and how long it keeps decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from fraudml.adapters.connections import postgres
from fraudml.errors import ConfigError
from fraudml.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fraudml.adapters.log._migrate import Tables
    from fraudml.adapters.log.postgres.timescale import Policies

DAY_US = 86_400_000_000


class Database(NamedTuple):
    """A database for decisions: its name for people, and its tables (see :class:`fraudml.adapters.log._migrate.Tables`)
    as they are, or were before :func:`upgrade_database`. ``timescale``: TimescaleDB in it, if it is; ``differs``: what
    of it is not as the settings say."""

    place: str
    tables: Tables
    timescale: str | None = None
    differs: tuple[str, ...] = ()


def database(settings: Settings) -> Database:
    """Which tables the decision log's database has. Nothing is made or changed."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        from fraudml.adapters.log.postgres import timescale, upgrade

        with _disposed(log_engine(settings)) as engine:
            tables, found = upgrade.tables(engine), timescale.state(engine)
            if found is None:
                return Database(postgres.place(url), tables)
            return Database(postgres.place(url), tables, found.version, tuple(found.differences(_policies(settings))))
    check_sqlite(settings)
    from fraudml.adapters.log import _connection

    return Database(str(_connection.database_file(url)), _connection.tables(url))


def upgrade_database(
    settings: Settings, needed_us: int = 0, say: Callable[[str], None] = lambda line: None
) -> Database:
    """Bring the decision log's database to this version's tables, and TimescaleDB in it to the settings; ``say`` is
    told what TimescaleDB does. Raises ``ConfigError`` when decisions have to be kept for longer: ``needed_us``."""
    _check_retention(settings, needed_us)
    url = settings.log_url()
    if postgres.is_postgres(url):
        from fraudml.adapters.log.postgres import timescale, upgrade

        place = postgres.place(url)
        with _disposed(log_engine(settings)) as engine:
            before = Database(place, upgrade.upgrade(engine, place))
            timescale.arrange(engine, place, _policies(settings), say)
            if timescale.state(engine) is None:
                for line in _without_timescale(settings, timescale.available(engine)):
                    say(line)
        return before
    before = database(settings)
    from fraudml.adapters.log import _connection

    _connection.connect(url).dispose()
    return before


def _policies(settings: Settings) -> Policies:
    from fraudml.adapters.log.postgres.timescale import Policies

    return Policies(settings.compress_after_days, settings.retain_days)


def _without_timescale(settings: Settings, available: str | None) -> Iterator[str]:
    if available is not None:
        yield f"TimescaleDB {available} could be used here: CREATE EXTENSION timescaledb, then fraudml db upgrade"
    if settings.compress_after_days and "compress_after_days" in settings.model_fields_set:
        yield "FRAUDML_COMPRESS_AFTER_DAYS does nothing without TimescaleDB"
    if settings.retain_days is not None:
        yield "without TimescaleDB old decisions are removed by: fraudml db retain (run it every day)"


def _check_retention(settings: Settings, needed_us: int) -> None:
    """Raise ``ConfigError`` when decisions would be removed that features may still see."""
    if settings.retain_days is not None and settings.retain_days * DAY_US < needed_us:
        raise ConfigError(
            f"FRAUDML_RETAIN_DAYS={settings.retain_days} is too short: features and labels of this project look back "
            f"up to {needed_us / DAY_US:.1f} days; set it to {-(-needed_us // DAY_US)} or more"
        )


def remove_old(settings: Settings, needed_us: int = 0) -> tuple[int, str] | None:
    """Remove the decisions that the settings do not keep; how many, and the day (UTC) before which. ``None`` where
    TimescaleDB does it by itself. Raises ``ConfigError`` where nothing is to be removed, or too much, or TimescaleDB
    has still to be told."""
    if settings.retain_days is None:
        raise ConfigError("FRAUDML_RETAIN_DAYS is not set: decisions are kept for ever")
    _check_retention(settings, needed_us)
    if not postgres.is_postgres(settings.log_url()):
        check_sqlite(settings)
    from fraudml.adapters.log.postgres import retention, timescale

    with _disposed(log_engine(settings)) as engine:
        if (found := timescale.state(engine)) is not None:
            if not found.retains(_policies(settings)):
                raise ConfigError(
                    f"TimescaleDB at {postgres.place(settings.log_url())} has no job yet that removes decisions after "
                    f"{settings.retain_days} days: run fraudml db upgrade"
                )
            return None
        before_us = retention.limit(settings.retain_days * DAY_US)
        day = datetime.fromtimestamp(before_us / 1e6, UTC).date().isoformat()
        return retention.remove(engine, before_us), day


def removed_before_us(settings: Settings) -> int:
    """Transactions before this time may have been removed, as the settings say; 0 where all are kept."""
    if settings.retain_days is None:
        return 0
    from fraudml.adapters.log.postgres import retention

    return retention.limit(settings.retain_days * DAY_US)


def log_engine(settings: Settings) -> Engine:
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


def check_sqlite(settings: Settings) -> str:
    """The URL of the log in SQLite; ``ConfigError`` for another database, and for what only PostgreSQL can do."""
    url = settings.log_url()
    if not url.startswith("sqlite:"):
        raise ConfigError("FRAUDML_DATABASE_URL must start with sqlite:// or postgresql://")
    if settings.retain_days is not None:
        raise ConfigError(
            "FRAUDML_RETAIN_DAYS needs PostgreSQL: unset it, or set FRAUDML_DATABASE_URL=postgresql://..."
        )
    return url


def replicas(settings: Settings) -> dict[str, float]:
    """Seconds that each replica of the decision log's database is behind, by name; SQLite has none."""
    url = settings.log_url()
    if not postgres.is_postgres(url):
        return {}
    from fraudml.adapters.connections import postgres_replicas

    return postgres_replicas.replicas(url, max(settings.log_timeout_ms / 1_000, 1.0))
