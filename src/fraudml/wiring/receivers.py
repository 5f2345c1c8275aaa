"""Where history is replayed to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fraudml.settings import Settings
from fraudml.wiring.topics import quiet_kafka

if TYPE_CHECKING:
    from fraudml.adapters.receiver.http import HttpReceiver
    from fraudml.adapters.stream.publisher import KafkaReceiver


def kafka_receiver(settings: Settings, ending: threading.Event) -> KafkaReceiver:
    """The topics of transactions and labels; ``ending``: set where the replay is to end."""
    config = quiet_kafka(settings)  # first: it tells when the driver is missing
    from fraudml.adapters.stream.publisher import KafkaReceiver

    return KafkaReceiver(config, settings.topic_transactions, settings.topic_labels, ending)


def http_receiver(url: str, key: str, connections: int, ending: threading.Event) -> HttpReceiver:
    """A service at a URL such as http://127.0.0.1:8000; raises ``ConfigError`` for what is none."""
    from fraudml.adapters.receiver.http import HttpReceiver

    return HttpReceiver(url, key, connections, ending)
