"""How Kafka is reached, and how its errors and its chatter are told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import SecretStr

from fraudml import wiring
from fraudml.adapters.stream.connection import Security, connection, stream_error
from fraudml.errors import ConfigError, FencedError, StreamError, TooLargeError
from fraudml.settings import Settings


def test_a_login_over_tls_is_what_the_settings_say(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    settings = Settings(
        _env_file=None,
        kafka_bootstrap_servers="broker:9093",
        kafka_security_protocol="sasl_ssl",
        kafka_sasl_username="me",
        kafka_sasl_password=SecretStr("secret"),
        kafka_ssl_ca_location=ca,
    )
    config = wiring.kafka(settings)
    assert config["bootstrap.servers"] == "broker:9093"
    assert config["security.protocol"] == "sasl_ssl"
    assert config["sasl.mechanisms"] == "SCRAM-SHA-512"
    assert (config["sasl.username"], config["sasl.password"]) == ("me", "secret")
    assert config["ssl.ca.location"] == str(ca)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("security", "said"),
    [
        (Security("sasl_plaintext", username="me"), "FRAUDML_KAFKA_SASL_PASSWORD"),
        (Security("ssl", ca=Path("nowhere.pem")), "FRAUDML_KAFKA_SSL_CA_LOCATION"),
    ],
)
def test_what_is_missing_is_told(security: Security, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        connection("broker:9092", security)


def test_without_a_broker_there_is_no_stream() -> None:
    with pytest.raises(ConfigError, match="FRAUDML_KAFKA_BOOTSTRAP_SERVERS"):
        wiring.kafka(Settings(_env_file=None))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._FENCED, FencedError),
        (KafkaError.FENCED_INSTANCE_ID, FencedError),
        (KafkaError.MSG_SIZE_TOO_LARGE, TooLargeError),
        (KafkaError.INVALID_PRODUCER_EPOCH, StreamError),
        (KafkaError._TIMED_OUT, StreamError),
    ],
)
def test_errors_of_the_driver_become_ours(code: int, kind: type[StreamError]) -> None:
    assert type(stream_error(KafkaException(KafkaError(code)), "publishing")) is kind


def test_an_error_in_a_callback_is_the_one_that_the_driver_raised() -> None:
    wrapped = SystemError("a callback returned a result with an exception set")
    wrapped.__cause__ = KafkaException(KafkaError(KafkaError._FENCED))
    assert isinstance(stream_error(wrapped, "publishing"), FencedError)


def test_the_driver_says_each_thing_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("fraudml.kafka")
    with caplog.at_level(logging.ERROR, "fraudml.kafka"):
        for attempt in range(5):
            log.error("FAIL [once#producer-1] [thrd:a]: connection refused (after %d ms)", attempt)
        log.error("FAIL [once#consumer-2] [thrd:a]: connection refused")
    assert len(caplog.records) == 2
