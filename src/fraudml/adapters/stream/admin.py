"""What a Kafka cluster has: brokers, topics, members of groups; and new topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fraudml.adapters.stream.connection import Config, stream_error
from fraudml.errors import StreamError

_EXISTS = "TOPIC_ALREADY_EXISTS"
_GONE = ("_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN", "REQUEST_TIMED_OUT")


class Cluster(NamedTuple):
    """``brokers``: their addresses; ``topics``: their numbers of partitions."""

    brokers: list[str]
    topics: dict[str, int]


class Member(NamedTuple):
    """A member of a group, and how many partitions it has."""

    name: str
    host: str
    partitions: int


class Administration:
    """Every method raises ``StreamError``, also when no broker answers within ``timeout_s``."""

    def __init__(self, config: Config, timeout_s: float) -> None:
        self._servers = config["bootstrap.servers"]
        self._timeout_s = timeout_s
        self._client = AdminClient(config)  # kept while its futures run

    def cluster(self) -> Cluster:
        """Of all topics: to ask for one by name would make it, on brokers that do so."""
        try:
            found = self._client.list_topics(timeout=self._timeout_s)
        except KafkaException as error:
            raise self._error(error, "asking for topics") from error
        brokers = [f"{each.host}:{each.port}" for each in found.brokers.values()]
        return Cluster(sorted(brokers), {name: len(topic.partitions) for name, topic in found.topics.items()})

    def create(self, names: Sequence[str], partitions: int, replication: int) -> list[str]:
        """Make topics; those that it made. Another process may make some of them at the same time."""
        wanted = [NewTopic(name, partitions, replication) for name in names]
        futures = self._client.create_topics(wanted, request_timeout=self._timeout_s) if wanted else {}
        made = []
        for name, future in futures.items():
            try:
                future.result(2 * self._timeout_s)
            except KafkaException as error:
                if error.args[0].name() != _EXISTS:
                    raise self._error(error, f"making the topic {name}") from error
            else:
                made.append(name)
        return made

    def members(self, group: str) -> list[Member]:
        """Who is in a group now."""
        (future,) = self._client.describe_consumer_groups([group], request_timeout=self._timeout_s).values()
        try:
            found = future.result(2 * self._timeout_s)
        except KafkaException as error:
            if error.args[0].name() == "GROUP_ID_NOT_FOUND":
                return []
            raise self._error(error, f"asking for the group {group}") from error
        return sorted(
            Member(each.group_instance_id or each.member_id, each.host, len(each.assignment.topic_partitions))
            for each in found.members
        )

    def _error(self, error: KafkaException, doing: str) -> StreamError:
        if error.args[0].name() in _GONE:
            return StreamError(
                f"Kafka at {self._servers} does not answer within {self._timeout_s:g} s; see whether it runs, and "
                "FRAUDML_KAFKA_BOOTSTRAP_SERVERS"
            )
        return stream_error(error, doing)
