"""Facts about the backends behind the settings, whatever their kind: for ``fraudml doctor``. None is changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from fraudml.decisions.servers import ServerFacts, Trouble
from fraudml.errors import MissingExtra, OnlineStoreError
from fraudml.features.spec import FeatureSet
from fraudml.settings import Settings
from fraudml.wiring.models import champion, remote_model
from fraudml.wiring.online import online_store
from fraudml.wiring.topics import quiet_kafka, stream_topics

CHANGED = ("api_keys", "writers")  # tables of which rows are changed; the others only grow

Facts = ServerFacts | Trouble
Clock = Callable[[], float]


def kind(url: str) -> str:
    """The kind of backend that a URL names.

    >>> kind("postgresql+psycopg://host/db"), kind("postgres://host/db"), kind("sc://host")
    ('postgresql', 'postgresql', 'spark')
    """
    scheme = url.partition(":")[0].partition("+")[0].lower()
    return {"postgres": "postgresql", "sc": "spark", "k8s": "spark", "yarn": "spark"}.get(scheme, scheme)


def load(settings: Settings) -> None:
    """Import what the other functions need: done at the same time as something is measured it would spoil that."""
    urls = (settings.database_url, settings.offline_url, settings.warehouse_url)
    kinds = {kind(url.get_secret_value()) for url in urls if url is not None}
    modules = ["log._facts", "registry._facts"]
    if "postgresql" in kinds:
        modules += ["connections.postgres_facts", "log.postgres.upgrade", "log.postgres.timescale"]
    if settings.redis_url is not None:
        modules.append("connections.redis_facts")
    if settings.kafka_bootstrap_servers is not None:
        modules.append("stream._facts")
    modules.append("offline._facts" if settings.offline_url is None else "connections.engine_facts")
    for module in modules:
        with suppress(ImportError):  # a missing extra is told where it is missed
            import_module(f"fraudml.adapters.{module}")


def log(settings: Settings, timeout_s: float, clock: Clock) -> Facts | None:
    """The decision log's; ``None`` where its file is not there yet."""
    url = settings.log_url()
    if kind(url) == "postgresql":
        from fraudml.adapters.log.postgres.tables import metadata

        return _postgres(url, "FRAUDML_DATABASE_URL", timeout_s, clock, tuple(metadata.tables))
    from fraudml.adapters.log import _facts

    return _facts.facts(url, timeout_s)


def redis(settings: Settings, timeout_s: float, clock: Clock) -> Facts | None:
    """Redis'; ``None`` where there is none."""
    if settings.redis_url is None:
        return None
    try:
        from fraudml.adapters.connections import redis_facts
    except ImportError:
        raise MissingExtra("redis") from None
    return redis_facts.facts(settings.redis_url.get_secret_value(), int(timeout_s * 1_000), clock)


def kafka(settings: Settings, timeout_s: float) -> Facts | None:
    """Kafka's; ``None`` where there is none."""
    if settings.kafka_bootstrap_servers is None:
        return None
    config = quiet_kafka(settings)
    from fraudml.adapters.stream import _facts

    return _facts.facts(config, stream_topics(settings), timeout_s)


def history_missing(settings: Settings, feature_set: FeatureSet) -> bool | None:
    """Whether online state in Redis lacks history; ``None`` where that cannot be told."""
    try:
        return online_store(settings, feature_set).lost()
    except OnlineStoreError:  # what is wrong with Redis has been said
        return None


def engine(url: str | None, setting: str, timeout_s: float, clock: Clock) -> Facts:
    """An engine's that computes over history: ``None`` is DuckDB."""
    if url is None:
        from fraudml.adapters.offline import _facts

        return _facts.facts()
    if kind(url) == "postgresql":
        return _postgres(url, setting, timeout_s, clock)
    from fraudml.adapters.connections import engine_facts

    return engine_facts.facts(url, setting, timeout_s)


def warehouse(url: str, setting: str, timeout_s: float, clock: Clock) -> Facts:
    """The warehouse's that decisions are exported to: an engine, or a place for files."""
    from fraudml.adapters.connections import files

    return files.facts(url, setting) if files.is_files(url) else engine(url, setting, timeout_s, clock)


def registry(settings: Settings, timeout_s: float) -> Facts | None:
    """The model registry's; ``None`` where none was made yet, or only MLflow itself can ask it."""
    from fraudml.adapters.registry import _facts

    return _facts.facts(settings.registry_url, settings.home, settings.model_name, timeout_s)


def model_server(settings: Settings, timeout_s: float) -> Facts | None:
    """The model server's; ``None`` where there is none."""
    from fraudml.adapters.model_server import _facts

    if settings.model_server_url is None:
        return None
    # of which version is asked later: of the champion's
    url = settings.model_server_url.get_secret_value().replace("/versions/{version}", "")
    return _facts.facts(url, timeout_s)


def check_model_server(settings: Settings, feature_set: FeatureSet, timeout_s: float) -> None:
    """Raise ``ModelServerError`` unless the model server gives the champion's reference scores; what keeps the champion
    itself from being loaded is raised, too."""
    from fraudml.decisions.model_server import reference_scores, verify

    bundle = champion(settings, feature_set)
    remote = remote_model(settings, bundle, timeout_s)
    if remote is not None:
        verify(remote, *reference_scores(bundle), bundle.version)


def _postgres(url: str, setting: str, timeout_s: float, clock: Clock, used: tuple[str, ...] = ()) -> Facts:
    try:
        from fraudml.adapters.connections import postgres_facts
    except ImportError:
        raise MissingExtra("postgres") from None
    use = postgres_facts.Use(used, CHANGED) if used else None
    return postgres_facts.facts(url, timeout_s, use, setting=setting, clock=clock)
