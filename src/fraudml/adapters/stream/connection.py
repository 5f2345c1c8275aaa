"""How Kafka is reached, for everyone who does: consumers, producers and the administration."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from fraudml.decisions.stream import Message
from fraudml.errors import ConfigError, FencedError, MissingExtra, StreamError, TooLargeError

try:
    from confluent_kafka import KafkaError
except ImportError:  # told where it is used
    KafkaError = None  # type: ignore[assignment,misc]

Config = dict[str, Any]

MOST_BYTES = 16_000_000  # of a message that we publish; the broker's own limit may be less
TOO_LARGE = ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")
_FENCED = ("_FENCED", "PRODUCER_FENCED", "FENCED_INSTANCE_ID")
_SAY_AGAIN_S = 30.0


class _Calm(logging.Filter):
    """Lets the driver say each thing once in a while: of a broker that is gone it tells ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this kind of message, of this client, was not said of late."""
        kind, now_s = record.getMessage().partition("]")[0], time.monotonic()
        if now_s < self._said_s.get(kind, -_SAY_AGAIN_S) + _SAY_AGAIN_S:
            return False
        self._said_s[kind] = now_s
        return True


_log = logging.getLogger("fraudml.kafka")
_log.addFilter(_Calm())


class Security(NamedTuple):
    """How this process and Kafka know each other; files are paths."""

    protocol: str = "plaintext"
    mechanism: str = "SCRAM-SHA-512"
    username: str | None = None
    password: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def connection(servers: str, security: Security) -> Config:
    """What every client is configured with. Raises ``ConfigError``, and ``MissingExtra`` without the package."""
    if KafkaError is None:
        raise MissingExtra("kafka")
    config: Config = {
        "bootstrap.servers": servers,
        "client.id": "fraudml",
        "security.protocol": security.protocol,
        "logger": _log,
        # what a broker that is gone costs: an attempt a second, and one line in the log for each state it is in
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": 10_000,
    }
    if "ssl" in security.protocol:
        files = {"ca": security.ca, "certificate": security.certificate, "key": security.key}
        for name, path in files.items():
            if path is not None and not path.is_file():
                raise ConfigError(f"FRAUDML_KAFKA_SSL_{name.upper()}_LOCATION: there is no file {path}")
            if path is not None:
                config[f"ssl.{name}.location"] = str(path)
    if "sasl" in security.protocol:
        if security.username is None or security.password is None:
            raise ConfigError(
                f"FRAUDML_KAFKA_SECURITY_PROTOCOL={security.protocol} needs a login: set "
                "FRAUDML_KAFKA_SASL_USERNAME and FRAUDML_KAFKA_SASL_PASSWORD"
            )
        config |= {
            "sasl.mechanisms": security.mechanism,
            "sasl.username": security.username,
            "sasl.password": security.password,
        }
    return config


def stream_error(error: BaseException, doing: str) -> StreamError:
    """The error of ours for one of the driver's."""
    if isinstance(error, SystemError) and error.__cause__ is not None:  # what the driver raised in a callback
        error = error.__cause__
    found = error.args[0] if error.args else error
    if not isinstance(found, KafkaError):
        return StreamError(f"Kafka failed while {doing}: {error}")
    if found.name() in _FENCED:
        return FencedError(
            f"another process has taken this one's place in Kafka ({found.str()}); give each worker a "
            "FRAUDML_WORKER_ID of its own"
        )
    kind = TooLargeError if found.name() in TOO_LARGE else StreamError
    return kind(f"Kafka failed while {doing}: {found.str()}")


def message_of(found: Any) -> Message:
    """A message of the driver's as ours."""
    _, time_ms = found.timestamp()
    headers = [(name, value if isinstance(value, bytes) else b"") for name, value in found.headers() or ()]
    return Message(
        found.topic(), found.partition(), found.offset(), found.key(), found.value(), headers, max(0, time_ms) * 1_000
    )
