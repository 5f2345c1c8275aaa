"""How long a broker is waited for: as long as was said, but not when it has refused us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from fraudml.adapters.stream import admin
from fraudml.adapters.stream.admin import Administration
from fraudml.errors import StreamError

SERVERS = "broker:9092"


class Metadata:
    def __init__(self) -> None:
        self.brokers: dict[int, Any] = {}
        self.topics: dict[str, Any] = {}


class Driver:
    """A client of a broker that answers after some seconds; ``says``: what it is told of meanwhile."""

    answers_after_s = 0.0
    says: tuple[KafkaError, ...] = ()

    def __init__(self, config: dict[str, Any]) -> None:
        self._tell: Callable[[KafkaError], None] = config["error_cb"]
        self.waited_s: list[float] = []

    def list_topics(self, timeout: float) -> Metadata:
        self.waited_s.append(timeout)
        if timeout < self.answers_after_s:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return Metadata()

    def poll(self, timeout: float) -> None:
        for error in self.says:
            self._tell(error)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Ask for topics with ten seconds' time; the times for which the driver was made to wait."""

    def asked(answers_after_s: float, *says: KafkaError) -> list[float]:
        monkeypatch.setattr(Driver, "answers_after_s", answers_after_s)
        monkeypatch.setattr(Driver, "says", says)
        monkeypatch.setattr(admin, "AdminClient", Driver)
        administration = Administration({"bootstrap.servers": SERVERS}, 10.0)
        administration.cluster()
        client: Any = administration._client
        waited: list[float] = client.waited_s
        return waited

    return asked


def test_a_broker_that_is_slow_has_all_the_time(ask: Callable[..., list[float]]) -> None:
    assert ask(0.1) == [1.0]
    assert ask(8.0) == [1.0, 9.0]


def test_one_that_is_gone_is_told_after_it(ask: Callable[..., list[float]]) -> None:
    with pytest.raises(StreamError, match="does not answer within 10 s"):
        ask(60.0)


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (KafkaError._AUTHENTICATION, "no such user", "refuses the login"),
        (KafkaError._SSL, "handshake failed", "do not agree on TLS"),
        (KafkaError._TRANSPORT, "error:0A00045C:SSL routines::certificate required", "do not agree on TLS"),
    ],
)
def test_one_that_refuses_us_is_told_at_once(ask: Callable[..., list[float]], code: int, text: str, said: str) -> None:
    with pytest.raises(StreamError, match=said):
        ask(8.0, KafkaError(code, text))
