"""What a Kafka cluster has: brokers, topics, members of groups; and new topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fraudml.adapters.stream.connection import Config, stream_error
from fraudml.errors import StreamError

_EXISTS = "TOPIC_ALREADY_EXISTS"
_GONE = ("_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN", "REQUEST_TIMED_OUT")
_BEGIN_S = 1.0  # who refuses us has done so by then
_REFUSALS = {
    "_AUTHENTICATION": (
        "refuses the login; see FRAUDML_KAFKA_SASL_USERNAME, FRAUDML_KAFKA_SASL_PASSWORD and "
        "FRAUDML_KAFKA_SASL_MECHANISM"
    ),
    "_SSL": (
        "and this process do not agree on TLS; see FRAUDML_KAFKA_SSL_CA_LOCATION, "
        "FRAUDML_KAFKA_SSL_CERTIFICATE_LOCATION, which it may ask for, and FRAUDML_KAFKA_SECURITY_PROTOCOL"
    ),
}


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
        self._refusal = ""
        told: Config = {**config, "error_cb": self._note}
        self._client = AdminClient(told)  # kept while its futures run

    def cluster(self) -> Cluster:
        """Of all topics: to ask for one by name would make it, on brokers that do so."""
        try:
            found = self._list_topics()
        except KafkaException as error:
            raise self._error(error, "asking for topics") from error
        self._refusal = ""
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

    def _list_topics(self) -> Any:
        """Waits for a broker, but not for one that has refused us at once."""
        begin_s = min(_BEGIN_S, self._timeout_s)
        try:
            return self._client.list_topics(timeout=begin_s)
        except KafkaException as error:
            self._client.poll(0)
            left_s = self._timeout_s - begin_s
            if self._refusal or left_s <= 0 or error.args[0].name() not in _GONE:
                raise
        return self._client.list_topics(timeout=left_s)

    def _note(self, error: Any) -> None:
        """The driver tells why it does not get in; the call that waits is only told that it waited."""
        name = "_SSL" if "SSL routines" in error.str() else error.name()  # of TLS 1.3 some come behind the handshake
        self._refusal = _REFUSALS.get(name, self._refusal)

    def _error(self, error: KafkaException, doing: str) -> StreamError:
        if self._refusal:
            return StreamError(f"Kafka at {self._servers} {self._refusal}")
        if error.args[0].name() in _GONE:
            return StreamError(
                f"Kafka at {self._servers} does not answer within {self._timeout_s:g} s; see whether it runs, and "
                "FRAUDML_KAFKA_BOOTSTRAP_SERVERS"
            )
        return stream_error(error, doing)
