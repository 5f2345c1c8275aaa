"""Publishes what is replayed: idempotent, confirmed by all replicas, each message accounted for."""

from __future__ import annotations

import threading

from confluent_kafka import KafkaError, KafkaException, Producer

from fraudml.adapters.stream.connection import MOST_BYTES, TOO_LARGE, Config, stream_error
from fraudml.errors import StreamError
from fraudml.events.receiver import Item, Told

GIVE_UP_S = 30.0  # a broker that confirms nothing for so long is gone
QUEUED = 20_000  # messages on their way, beyond which the replay waits
QUEUED_KIB = 65_536
CALL_S = 0.1
_ENDED = ("_PURGE_QUEUE", "_PURGE_INFLIGHT")  # ours: what is not confirmed when we close is not told of


class KafkaReceiver:
    """A :class:`fraudml.events.receiver.Receiver` that publishes; for one thread. Messages of one key stay in order.

    The topics must be there (:mod:`fraudml.adapters.stream.admin` tells). A message that the broker finds too large is
    refused; a broker that does not confirm is a ``StreamError``.
    """

    def __init__(self, config: Config, transactions: str, labels: str, ending: threading.Event) -> None:
        self._topics = {False: transactions, True: labels}
        self._ending = ending
        self._failure: KafkaError | None = None
        self._producer = Producer(
            config
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.max.bytes": MOST_BYTES,
                "queue.buffering.max.messages": QUEUED,
                "queue.buffering.max.kbytes": QUEUED_KIB,
                "delivery.timeout.ms": int(GIVE_UP_S * 1_000),
            }
        )

    def send(self, item: Item, told: Told) -> bool:
        """See the port."""
        while not self._ending.is_set():
            try:
                self._producer.produce(
                    self._topics[item.is_label],
                    item.body,
                    item.key,
                    on_delivery=lambda error, message: self._delivered(error, told),
                )
            except BufferError:  # the pace is the broker's
                self._producer.poll(CALL_S)
                self._check()
            except KafkaException as error:
                if error.args[0].name() not in TOO_LARGE:
                    raise stream_error(error, "publishing") from error
                told(error.args[0].str())
                return True
            else:
                self.poll()
                return True
        return False

    def poll(self) -> None:
        """See the port."""
        self._producer.poll(0)
        self._check()

    def flush(self, within_s: float | None = None) -> None:
        """See the port; the broker's own deadline ends the waiting."""
        left_s = within_s if within_s is not None else 2 * GIVE_UP_S
        while left_s > 0 and self._producer.flush(min(CALL_S, left_s)):
            left_s -= CALL_S
            if within_s is None and self._ending.is_set():
                within_s, left_s = left_s, min(left_s, GIVE_UP_S / 6)
        self._check()

    def close(self) -> None:
        """See the port."""
        self._producer.purge()
        self._producer.flush(CALL_S)

    def _delivered(self, error: KafkaError | None, told: Told) -> None:
        if error is None:
            told(None)
        elif error.name() in TOO_LARGE:
            told(error.str())
        elif error.name() not in _ENDED:
            self._failure = self._failure or error

    def _check(self) -> None:
        if self._failure is None:
            return
        if self._failure.name() == "_MSG_TIMED_OUT":
            raise StreamError(f"Kafka confirmed nothing for {GIVE_UP_S:g} s; see whether its brokers run")
        raise stream_error(KafkaException(self._failure), "publishing")
