"""The topics of the stream, for people who look after them: settings to what asks and changes them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from fraudml.settings import Settings
from fraudml.wiring.stream import kafka

if TYPE_CHECKING:
    from fraudml.adapters.stream.admin import Administration
    from fraudml.adapters.stream.mover import Mover
    from fraudml.adapters.stream.reader import TopicReader

DEAD = ".dlq"  # as worker/dead_letters.py names them
WITHIN_S = 10.0  # a broker that says nothing for so long is taken to be gone


def dead_letter_topics(settings: Settings) -> list[str]:
    """What cannot be used of the topics that workers read."""
    return [f"{topic}{DEAD}" for topic in (settings.topic_transactions, settings.topic_labels)]


def stream_topics(settings: Settings) -> list[str]:
    """All topics of an installation."""
    own = [settings.topic_transactions, settings.topic_labels, settings.topic_decisions, settings.topic_alerts]
    return [*own, *dead_letter_topics(settings)]


def administration(settings: Settings, within_s: float = WITHIN_S) -> Administration:
    """Asks a cluster what it has, and makes topics."""
    config = quiet_kafka(settings)  # first: it tells when the driver is missing
    from fraudml.adapters.stream.admin import Administration

    return Administration(config, within_s)


def topic_reader(settings: Settings, group: str) -> TopicReader:
    """Reads topics, and tells where a group is."""
    config = quiet_kafka(settings)
    from fraudml.adapters.stream.reader import TopicReader

    return TopicReader(config, group, WITHIN_S)


def waits_since(settings: Settings) -> int | None:
    """When the oldest transaction that waits for a worker was published; ``None`` where none waits."""
    topic = settings.topic_transactions
    count = administration(settings).cluster().topics.get(topic, 0)
    with closing(topic_reader(settings, settings.kafka_group)) as reader:
        return reader.oldest(reader.committed([(topic, number) for number in range(count)]))


def dead_letter_group(settings: Settings) -> str:
    """The group whose offsets say which dead letters were replayed."""
    return f"{settings.kafka_group}-dlq"


def mover(settings: Settings) -> Mover:
    """Replays dead letters."""
    config = quiet_kafka(settings)
    from fraudml.adapters.stream.mover import Mover

    return Mover(config, dead_letter_group(settings), WITHIN_S)


def quiet_kafka(settings: Settings) -> dict[str, Any]:
    """How Kafka is reached, without the driver's own lines about connections: what fails is told once, in our words."""
    return kafka(settings) | {"log_level": 0}
