"""Publishes messages and moves a group past those they came from, as one transaction of Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from fraudml.adapters.stream.connection import MOST_BYTES, Config, stream_error
from fraudml.adapters.stream.reader import TopicReader
from fraudml.decisions.stream import Outgoing, Partition
from fraudml.errors import StreamError

CALL_S = 1.0
_PATIENT = ("_TIMED_OUT",)  # such calls may be made again, and go on where they were


class Mover(TopicReader):
    """A reader that moves its group. One at a time: who starts under the same name ends who came before, with what that
    one had begun; its next :meth:`move` raises ``FencedError``."""

    def __init__(self, config: Config, group: str, timeout_s: float) -> None:
        super().__init__(config, group, timeout_s)
        self._refusals: list[KafkaError] = []
        self._producer = Producer(
            config
            | {
                "transactional.id": group,
                "transaction.timeout.ms": 30_000,
                "message.max.bytes": MOST_BYTES,
                "compression.type": "lz4",
                "linger.ms": 1,
            }
        )
        # before offsets are asked for: from now on nobody else moves them
        self._patiently("starting", self._producer.init_transactions)

    def move(self, outgoing: Sequence[tuple[Outgoing, int | None]], done: Mapping[Partition, int]) -> None:
        """Publish messages, each to a partition or wherever its key belongs, and go on from these offsets. Raises
        ``TooLargeError`` for a message that the broker does not take; nothing is published then."""
        self._refusals.clear()
        try:
            self._producer.begin_transaction()
            for each, partition in outgoing:
                self._publish(each, partition)
            if done:
                offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in done.items()]
                group, send = self.consumer.consumer_group_metadata(), self._producer.send_offsets_to_transaction
                self._patiently("committing offsets", lambda wait_s: send(offsets, group, wait_s))
            self._patiently("committing", self._producer.commit_transaction)
        except (KafkaException, StreamError) as error:
            self._abort()
            if self._refusals:  # the reason; the transaction only says that it failed
                raise stream_error(KafkaException(self._refusals[0]), "publishing") from error
            if isinstance(error, StreamError):
                raise
            raise stream_error(error, "publishing") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._producer.flush(CALL_S)
        super().close()

    def _publish(self, message: Outgoing, partition: int | None) -> None:
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers) or None,
                    on_delivery=self._delivered,
                    **where,
                )
                return
            except BufferError:  # the queue to the broker is full
                if time.monotonic() > until:
                    raise StreamError(f"Kafka took nothing for {self._timeout_s:g} s") from None
                self._producer.poll(CALL_S)

    def _delivered(self, error: KafkaError | None, message: object) -> None:
        if error is not None and error.name() not in ("_PURGE_QUEUE", "_PURGE_INFLIGHT"):
            self._refusals.append(error)

    def _abort(self) -> None:
        with suppress(StreamError):  # then the broker ends it, or the next one under this name
            self._patiently("aborting", self._producer.abort_transaction)

    def _patiently(self, doing: str, call: Callable[[float], object]) -> None:
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                call(CALL_S)
                return
            except KafkaException as error:
                if not error.args[0].retriable() and error.args[0].name() not in _PATIENT:
                    raise stream_error(error, doing) from error
                if time.monotonic() > until:
                    raise StreamError(f"Kafka does not answer while {doing}; see whether its brokers run") from error
