"""The stream of transactions: Kafka, as the settings say."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fraudml.decisions.stream import OnRebalance
from fraudml.errors import ConfigError
from fraudml.settings import Settings

if TYPE_CHECKING:
    from fraudml.adapters.stream.kafka import KafkaStream


def kafka(settings: Settings) -> dict[str, Any]:
    """The configuration of every client of Kafka; raises ``ConfigError`` where none is set, and ``MissingExtra``."""
    from fraudml.adapters.stream.connection import Security, connection

    if settings.kafka_bootstrap_servers is None:
        raise ConfigError("there is no stream: set FRAUDML_KAFKA_BOOTSTRAP_SERVERS=host:9092")
    password = settings.kafka_sasl_password
    return connection(
        settings.kafka_bootstrap_servers,
        Security(
            settings.kafka_security_protocol,
            settings.kafka_sasl_mechanism,
            settings.kafka_sasl_username,
            None if password is None else password.get_secret_value(),
            settings.kafka_ssl_ca_location,
            settings.kafka_ssl_certificate_location,
            settings.kafka_ssl_key_location,
        ),
    )


def workers_groups(settings: Settings) -> dict[str, str]:
    """The topics that workers read, and the group of each: a group balances the number of partitions, whatever their
    topic, so in one a worker could get all labels and no transaction."""
    group = settings.kafka_group
    return {settings.topic_transactions: group, settings.topic_labels: f"{group}-labels"}


def stream(settings: Settings, topic: str, on_rebalance: OnRebalance, alive: Callable[[], None]) -> KafkaStream:
    """A member of the workers' group for a topic."""
    config = kafka(settings)  # first: it tells when the driver is missing
    from fraudml.adapters.stream.kafka import KafkaStream, Member

    return KafkaStream(
        config,
        [topic],
        Member(
            workers_groups(settings)[topic],
            settings.worker_id or socket.gethostname(),
            settings.kafka_session_timeout_ms,
            settings.kafka_static_membership,
        ),
        fetch_wait_ms=settings.kafka_fetch_wait_ms,
        on_rebalance=on_rebalance,
        alive=alive,
    )
