"""Transactions of Kafka: messages, and a group's move past what they came from; both or neither.

A transaction covers the messages published and the offsets of what was read (KIP-98); the group's generation goes with
the offsets (KIP-447), so one who has lost its partitions without noticing cannot commit. Who starts under a name ends
what its predecessor had begun.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from fraudml.adapters.stream.connection import MOST_BYTES, Config, stream_error
from fraudml.decisions.stream import Outgoing, Partition
from fraudml.errors import FencedError, StreamError

ABORT_S = 5.0
CALL_S = 1.0  # at most without a sign of life to the one who watches
TOLD_S = 3.0  # a wait that the log is told of
_OURS = ("_PURGE_QUEUE", "_PURGE_INFLIGHT")  # messages of a transaction that we abort

logger = logging.getLogger(__name__)
T = TypeVar("T")


class TransactionalProducer:
    """One name's producer; for one thread at a time.

    ``transaction_s``: a transaction that takes longer is given up, here and by the broker; ``start_s``: so long a
    broker is waited for before the first. ``alive`` is called while a broker is waited for; it raises to end that.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        *,
        transaction_s: float,
        start_s: float = math.inf,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._alive = alive
        self._transaction_s = transaction_s
        self._start_s = start_s
        self._refusals: list[KafkaError] = []  # of messages of the transaction under way
        self._config = config | {
            "transactional.id": name,
            "transaction.timeout.ms": int(transaction_s * 1_000),
            "message.max.bytes": MOST_BYTES,
            "linger.ms": 1,  # a transaction's end sends what waits; until then more may come along
            "compression.type": "lz4",
        }
        self._producer = self._started()

    def commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int], member: Any) -> None:
        """Publish messages and have a group go on from these offsets; ``member``: the driver's metadata of who read
        them. ``TooLargeError`` for a message that the broker does not take, ``FencedError`` when another has this one's
        name; nothing is published then, nor after any other ``StreamError``, unless the broker took it and could not
        say so."""
        self._refusals.clear()
        until_s = time.monotonic() + self._transaction_s
        try:
            self._producer.begin_transaction()
            for each in outgoing:
                self._publish(each, until_s)
            if done:
                offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in done.items()]
                send = self._producer.send_offsets_to_transaction
                patiently(
                    "committing offsets", lambda wait_s: send(offsets, member, wait_s), self._alive, self._transaction_s
                )
            patiently("committing", self._producer.commit_transaction, self._alive, self._transaction_s)
        except (KafkaException, SystemError, StreamError) as error:  # SystemError: see _delivered
            failure = error if isinstance(error, StreamError) else stream_error(error, "publishing")
            if isinstance(failure, FencedError):
                raise failure from error  # whoever has our name has ended our transaction
            self._abort()
            if self._refusals:  # the reason; the transaction only says that it failed
                raise stream_error(KafkaException(self._refusals[0]), "publishing") from error
            raise failure from error

    def close(self) -> None:
        """Let go of the connections."""
        _let_go([self.__dict__.pop("_producer")])

    def _publish(self, message: Outgoing, until_s: float) -> None:
        where: dict[str, Any] = {} if message.partition is None else {"partition": message.partition}
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
                break
            except BufferError:  # the queue to the broker is full: the pace is the broker's
                if time.monotonic() > until_s:
                    raise StreamError(f"Kafka took nothing for {self._transaction_s:g} s") from None
                self._alive()
                self._producer.poll(CALL_S)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: object) -> None:
        """A callback of the driver. One that finds an error of the driver's own pending ends in a SystemError."""
        if error is not None and error.name() not in _OURS:
            self._refusals.append(error)

    def _abort(self) -> None:
        """Undo a transaction. What a producer cannot undo, the next one with its name does when it starts; that is not
        for us where the other one is there already (what failed before may only have said that it is the end)."""
        try:
            self._producer.abort_transaction(ABORT_S)
        except (KafkaException, SystemError) as error:
            failure = stream_error(error, "aborting")
            if isinstance(failure, FencedError):
                raise failure from error
            logger.warning("%s; a new producer goes on", failure)
            old, self._producer = [self._producer], self._started()
            _let_go(old)

    def _started(self) -> Producer:
        """One that can begin; the transactions of those with its name before it have ended then."""
        made = Producer(self._config)
        patiently("starting", made.init_transactions, self._alive, self._start_s)
        return made


def _let_go(producers: list[Producer]) -> None:
    """The driver's end of a producer waits for the broker, perhaps for ever. The list holds the last reference."""
    threading.Thread(target=producers.clear, name="old-producer", daemon=True).start()


def patiently(
    doing: str, call: Callable[[float], T], alive: Callable[[], None] = lambda: None, within_s: float = math.inf
) -> T:
    """Call until the broker answers: such calls may be made again, and go on where they were. ``call`` gets the seconds
    that it may take; ``alive`` is called between. Raises ``StreamError``."""
    since_s, told = time.monotonic(), False
    while True:
        try:
            return call(CALL_S)
        except KafkaException as error:
            passing = error.args[0].retriable() or error.args[0].name() == "_TIMED_OUT"
            if not passing:
                raise stream_error(error, doing) from error
            waited_s = time.monotonic() - since_s
            if waited_s > within_s:
                raise StreamError(f"Kafka does not answer while {doing}; see whether its brokers run") from error
            if not told and waited_s > TOLD_S:
                logger.warning("Kafka does not answer while %s; it is waited for", doing)
                told = True
        alive()
