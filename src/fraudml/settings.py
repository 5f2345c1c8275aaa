"""The only reader of the environment: every setting, its default and its meaning.

Each field is read from ``FRAUDML_<NAME>`` or from a ``.env`` file in the working directory, once, and is
frozen afterwards. ``docs/reference/settings.md`` documents each (a test checks).
"""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraudml.errors import ConfigError


class Settings(BaseSettings):
    """All settings of one process; immutable.

    >>> Settings(port=0).port
    0
    """

    model_config = SettingsConfigDict(
        env_prefix="FRAUDML_", env_file=".env", frozen=True, extra="ignore", populate_by_name=True
    )

    project: Path = Field(Path("fraudml.yaml"), description="The project file: schema, features, costs.")
    home: Path = Field(Path(".fraudml"), description="Where state lives: database, registry, bundles, reports, keys.")
    database_url: SecretStr | None = Field(
        None, description="Decision log, labels and API keys: sqlite or postgresql. Default: SQLite file in home."
    )
    db_pool_size: int = Field(5, ge=4, description="Connections to PostgreSQL that a process keeps; two are its own.")
    db_pool_overflow: int = Field(5, ge=0, description="Connections to PostgreSQL opened beyond these for a while.")
    db_pool_recycle_s: float = Field(
        1_800.0, gt=0, description="Age at which an idle connection to PostgreSQL is replaced; seconds."
    )
    db_pool_timeout_ms: int = Field(
        5_000, gt=0, description="How long to wait for a connection to PostgreSQL when all are in use; milliseconds."
    )
    compress_after_days: int = Field(
        7, ge=0, description="Age at which TimescaleDB compresses decisions; days, 0 means never."
    )
    retain_days: int | None = Field(
        None, ge=1, description="How long decisions are kept, by their transactions' time; days. Default: for ever."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis for state, prediction cache, recent decisions and rate limits. Default: this process."
    )
    redis_timeout_ms: int = Field(
        250, gt=0, description="How long one call of Redis may take before it counts as failed; milliseconds."
    )
    offline_url: SecretStr | None = Field(
        None, description="Engine that computes features over history. Default: DuckDB in this process."
    )
    spark_directory: str | None = Field(
        None,
        description="Where Spark keeps history and results while it works: a path or URI that all executors reach.",
    )
    source_password: SecretStr | None = Field(
        None, description="Password of the database that history is read from, where its URL has none."
    )
    source_timeout_s: float = Field(
        600.0, gt=0, description="How long a database that history is read from may send nothing; seconds."
    )
    kafka_bootstrap_servers: str | None = Field(
        None,
        validation_alias=AliasChoices("FRAUDML_KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"),
        description="Kafka that transactions come from: host:port, several with commas. Default: no stream.",
    )
    kafka_security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="How Kafka is talked to: TLS or not, with a login (SASL) or not."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How the login at Kafka is proved."
    )
    kafka_sasl_username: str | None = Field(None, description="User of the login at Kafka.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Password of the login at Kafka.")
    kafka_ssl_ca_location: Path | None = Field(
        None, description="File with the certificates that Kafka's is checked with. Default: the system's."
    )
    kafka_ssl_certificate_location: Path | None = Field(
        None, description="File with the certificate that Kafka knows this process by."
    )
    kafka_ssl_key_location: Path | None = Field(None, description="File with the key of that certificate.")
    kafka_group: str = Field("fraudml", min_length=1, description="Consumer group that workers share.")
    kafka_session_timeout_ms: int = Field(
        10_000,
        ge=1_000,
        description="How long a worker may be silent before its partitions go to others; milliseconds.",
    )
    kafka_fetch_wait_ms: int = Field(
        100,
        ge=1,
        le=10_000,
        description="How long a request for messages may wait at the broker, in milliseconds. Kafka answers as soon as "
        "there are some; with a broker that does not, less is faster.",
    )
    kafka_static_membership: bool = Field(
        False, description="Whether a worker that is back in time with the same worker_id keeps its partitions."
    )
    topic_transactions: str = Field("transactions", description="Topic of transactions to decide on.")
    topic_labels: str = Field("labels", description="Topic of label reports.")
    topic_decisions: str = Field("decisions", description="Topic that decisions are published to.")
    topic_alerts: str = Field("alerts", description="Topic of reviews and declines, with their transactions.")
    worker_id: str | None = Field(
        None, min_length=1, description="Name of a worker, unlike all others' of its group. Default: the host's."
    )
    worker_batch: int = Field(500, gt=0, le=10_000, description="Most messages that a worker handles together.")
    worker_redis_timeout_ms: int = Field(
        5_000,
        gt=0,
        description="The same as redis_timeout_ms for workers: nobody waits for their answers; milliseconds.",
    )
    worker_stuck_s: float = Field(
        60.0, gt=0, description="How long a worker may show no sign of life before it ends itself; seconds."
    )
    worker_port: int = Field(
        9_100, ge=0, le=65535, description="Port of a worker's metrics and health; 0 lets the system choose."
    )
    monitor_port: int = Field(
        9_101, ge=0, le=65535, description="Port of `fraudml monitor`'s metrics; 0 lets the system choose."
    )
    monitor_every_s: float = Field(
        300.0, gt=0, description="How often `fraudml monitor` looks at drift, labels and the installation; seconds."
    )
    backup_marker: Path | None = Field(
        None, description="A file that each backup writes or touches when it has succeeded; its age is a metric."
    )
    certificates: str | None = Field(
        None, description="Files of certificates whose end is a metric, with commas; those of Kafka are watched anyway."
    )
    warehouse_url: SecretStr | None = Field(
        None, description="Warehouse, or place for Parquet files, that decisions are exported to."
    )
    durability: Literal["process", "power"] = Field(
        "process", description="What a decision survives: the end of the process, or also a power cut."
    )
    log_timeout_ms: int = Field(
        1_000, gt=0, description="How long a call of the decision log waits, for a lock or a server; milliseconds."
    )
    registry_url: str | None = Field(None, description="MLflow tracking server or store. Default: SQLite in home.")
    model_name: str = Field("fraud", description="Name of the registered model.")
    model_server_url: SecretStr | None = Field(
        None, description="A model on a V2 server that scores in place of the local copy. Default: this process scores."
    )
    model_server_timeout_ms: int = Field(
        250, gt=0, description="How long the model server may take to score a batch; milliseconds."
    )
    hash_key: SecretStr | None = Field(
        None, min_length=1, description="Key of the HMAC for card numbers. Default: made once, kept in <home>/hash.key."
    )
    api_key: SecretStr | None = Field(None, description="API key that `fraudml replay` calls a service with.")
    host: str = Field("127.0.0.1", description="Address that `fraudml serve` binds to.")
    port: int = Field(8000, ge=0, le=65535, description="Port of `fraudml serve`; 0 lets the system choose.")
    max_body_bytes: int = Field(10_000_000, gt=0, description="Largest accepted HTTP request body, in bytes.")
    max_batch: int = Field(10_000, gt=0, description="Most transactions in one batch request.")
    rate_limit_per_s: float = Field(
        0.0, ge=0, description="Scored transactions a second allowed per API key; 0 means no limit."
    )
    max_waiting: int = Field(2_000, gt=0, description="Requests that may wait; beyond, they are answered 503 at once.")
    deadline_ms: int = Field(
        2_000, gt=0, description="How long a request may wait for its decision before it is answered 503; milliseconds."
    )
    latency_objective_ms: int | None = Field(
        None,
        gt=0,
        description="What 95 of 100 requests are to be answered within, and 99 within twice as long; milliseconds. "
        "Default: that of the tier.",
    )
    cost_per_hour: float | None = Field(
        None, ge=0, description="What a process costs an hour, in any currency: for the cost of 1,000 queries."
    )
    server_timing: bool = Field(False, description="Whether answers carry a Server-Timing header with each stage.")
    max_reject_share: float = Field(
        0.05, ge=0, le=1, description="Share of broken rows in a file above which a command fails."
    )
    lateness_s: float = Field(
        86_400.0, ge=0, description="How far behind the newest event state is kept, for late events; seconds."
    )
    max_ahead_s: float = Field(
        86_400.0, ge=0, description="How far ahead of the server's clock a transaction's time may be; seconds."
    )
    cache: Literal["auto", "on", "shared", "off"] = Field(
        "auto",
        description="Keep scores of equal inputs: on, in Redis (shared), off, or auto: on for models without history.",
    )
    cache_ttl_s: float = Field(3_600.0, gt=0, description="How long a cached score is used; seconds.")
    cache_size: int = Field(100_000, gt=0, description="Most cached scores.")
    recent_ttl_s: float = Field(
        3_600.0, gt=0, description="How long recent decisions are kept in Redis, for retries without the log; seconds."
    )
    recent_size: int = Field(200_000, gt=0, description="About how many recent decisions are kept in Redis.")
    when_degraded: Literal["open", "closed"] = Field(
        "open", description="Without history: open lets a score count as it is, closed approves nothing."
    )
    refresh_s: float = Field(
        5.0, ge=0, description="How often `fraudml serve` looks for a new rollout or champion; seconds, 0 means never."
    )
    threads: int = Field(0, ge=0, description="Threads for offline work; 0 means all cores.")
    memory_limit: str = Field(
        "4GB",
        pattern=r"^[0-9]+(\.[0-9]+)? ?[KMGTkmgt][Ii]?[Bb]$",
        description="Memory that DuckDB may use before it spills to disk.",
    )
    log_level: str = Field(
        "info",
        pattern="(?i)^(debug|info|warning|error|critical)$",
        description="Level of the service's structured log: debug, info, warning, error or critical.",
    )
    request_log: Literal["failed", "all"] = Field(
        "failed", description="Which requests have a line in the log: those that failed, or all."
    )

    @field_validator(
        *(
            "database_url",
            "redis_url",
            "offline_url",
            "warehouse_url",
            "registry_url",
            "model_server_url",
            "retain_days",
            "kafka_bootstrap_servers",
        ),
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        """A variable that a template left empty names no server, and no limit."""
        return None if value == "" else value

    @property
    def latency_objective_s(self) -> float:
        """What 95 of 100 requests are to be answered within; seconds. By default 100 ms, with PostgreSQL 50 ms, with
        Redis and Kafka 20 ms (docs/concepts/architecture.md has the tiers)."""
        if self.latency_objective_ms is not None:
            return self.latency_objective_ms / 1_000
        if self.redis_url is not None and self.kafka_bootstrap_servers is not None:
            return 0.02
        return 0.1 if self.log_url().startswith("sqlite") else 0.05

    def log_url(self) -> str:
        """The decision log's URL, with its password: as set, or a SQLite file in the home directory."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'fraudml.db'}"

    def secret_hash_key(self) -> bytes:
        """The HMAC key for card numbers; made and stored with mode 0600 on first use.

        Losing it makes hashed card numbers unlinkable to new ones, so back it up with the database.
        """
        if self.hash_key is not None:
            return self.hash_key.get_secret_value().encode()
        path = self.home / "hash.key"
        try:
            return path.read_bytes().strip()
        except FileNotFoundError:
            self.home.mkdir(parents=True, exist_ok=True)
        key = secrets.token_hex(32).encode()
        draft = path.with_name(f"hash.key.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_bytes(key)
        try:
            os.link(draft, path)  # whole or not at all: another process never reads half a key
        except FileExistsError:  # another process was first: its key counts
            return path.read_bytes().strip()
        finally:
            draft.unlink()
        return key


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "FRAUDML_" + "_".join(str(part) for part in first["loc"]).upper().removeprefix("FRAUDML_")
        raise ConfigError(f"setting {name} is wrong: {first['msg']}") from None
    except UnicodeDecodeError:
        raise ConfigError("the file .env is not UTF-8 text") from None


def environment_of_defaults() -> dict[str, str]:
    """This process's environment without settings: for a child process that shall not use ours."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("FRAUDML_")}


def environment_with(**changes: str) -> dict[str, str]:
    """This process's environment with some settings changed: for a child process that shall use our other ones."""
    changed = {f"FRAUDML_{name.upper()}": value for name, value in changes.items()}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in changed}
    return kept | changed
