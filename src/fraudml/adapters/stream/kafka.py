"""A member of a consumer group whose reading, publishing and moving on are transactions of Kafka.

A transaction covers the messages published and the offsets of what was read (KIP-98); the group's generation goes with
the offsets (KIP-447), so one who has lost its partitions without noticing cannot commit. The transactional id is the
worker's name: who starts under it again ends what its predecessor had begun.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from fraudml.adapters.stream.connection import MOST_BYTES, Config, message_of, stream_error
from fraudml.decisions.stream import Message, OnRebalance, Outgoing, Partition
from fraudml.errors import FencedError, StreamError

ABORT_S = 5.0
CALL_S = 1.0  # at most without a sign of life to the one who watches
BUFFERED_KIB = 16_384  # of messages read ahead, for all partitions together
TRANSACTION_S = 10.0  # a transaction that takes longer is aborted by the broker
REJOIN_S, MOST_REJOIN_S = 5.0, 300.0
TOLD_S = 3.0  # a wait that the log is told of

logger = logging.getLogger(__name__)
T = TypeVar("T")


class KafkaStream:
    """See :class:`fraudml.decisions.stream.Stream`.

    ``config``: of every client (:func:`fraudml.adapters.stream.connection.connection`); ``name``: of this worker;
    ``static``: its membership outlives its process for the session's time. ``alive`` is called while a broker that is
    gone is waited for; it raises to end that.
    """

    def __init__(
        self,
        config: Config,
        topics: Sequence[str],
        *,
        group: str,
        name: str,
        session_ms: int,
        static: bool = False,
        on_rebalance: OnRebalance = lambda what, partitions: None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._alive = alive
        self._on_rebalance = on_rebalance
        self._refusals: list[KafkaError] = []  # of messages of the transaction under way
        self._next: dict[Partition, int] = {}  # where each partition goes on when all that was read is committed
        self._ours: set[Partition] = set()
        self._held: set[Partition] = set()  # not to be read until resume()
        self._gone: set[Partition] = set()  # no longer ours since the last read began
        self._polled_s = time.monotonic()
        self._session_s = session_ms / 1_000
        self._producing = config | {
            "transactional.id": f"{group}-{name}",
            "transaction.timeout.ms": int(TRANSACTION_S * 1_000),
            "message.max.bytes": MOST_BYTES,
            "linger.ms": 1,  # a transaction's end sends what waits; until then more may come along
            "compression.type": "lz4",
        }
        self._producer = self._new_producer()
        self._consumer = Consumer(
            config
            | ({"group.instance.id": name} if static else {})
            | {
                "group.id": group,
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": min(3_000, session_ms // 3),
                "partition.assignment.strategy": "cooperative-sticky",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",  # whatever happened to the offsets: nothing is left out
                "queued.max.messages.kbytes": BUFFERED_KIB,
                "fetch.max.bytes": MOST_BYTES,
                "max.partition.fetch.bytes": 1_048_576,
                "fetch.wait.max.ms": 100,
            }
        )
        self._topics = list(topics)
        self._rejoin_s = REJOIN_S
        self._rejoin_at_s = math.inf
        self._subscribe()

    def read(self, most: int, wait_s: float) -> Sequence[Message]:
        """The next messages. While the group has a new member, or a broker is gone, there are none."""
        self._gone.clear()
        if not self._ours and time.monotonic() >= self._rejoin_at_s:
            self._rejoin()
        first = self._consumer.poll(wait_s)
        self._polled_s = time.monotonic()
        if first is None:
            return ()
        found = [first]
        if most > 1:
            found += self._consumer.consume(most - 1, 0)
        messages = []
        for each in found:
            if (error := each.error()) is None:
                messages.append(message_of(each))
            elif error.fatal() or error.name() == "FENCED_INSTANCE_ID":
                raise stream_error(KafkaException(error), "reading")
            else:  # a topic that is not there, a broker that cannot be asked: the driver goes on trying
                logger.warning("Kafka failed while reading: %s", error.str())
                if error.name() == "UNKNOWN_TOPIC_OR_PART":
                    self._rejoin_at_s = time.monotonic() + self._rejoin_s
        if self._gone:  # in the middle: these are read by somebody else
            messages = [each for each in messages if (each.topic, each.partition) not in self._gone]
        for message in messages:
            self._next.setdefault((message.topic, message.partition), message.offset)
        return messages

    def commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int]) -> None:
        """One transaction; nothing to publish needs none."""
        self._refusals.clear()
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in done.items()]
        if time.monotonic() - self._polled_s > self._session_s:
            # The broker checks this, too, but for brokers that do not: others may have our partitions by now
            raise StreamError("the worker was held up for longer than the session; its messages are read again")
        if not outgoing:
            self._consumer.commit(offsets=offsets, asynchronous=True)  # if it fails, they are read again
            self._next.update(done)
            return
        try:
            self._producer.begin_transaction()
            for each in outgoing:
                self._publish(each)
            group = self._consumer.consumer_group_metadata()
            send = self._producer.send_offsets_to_transaction
            self._patiently("committing offsets", lambda wait_s: send(offsets, group, wait_s), TRANSACTION_S)
            self._patiently("committing", self._producer.commit_transaction, TRANSACTION_S)
        except (KafkaException, SystemError, StreamError) as error:  # SystemError: see _delivered
            failure = error if isinstance(error, StreamError) else stream_error(error, "publishing")
            if isinstance(failure, FencedError):
                raise failure from error  # whoever has our name has ended our transaction
            self._abort()
            if self._refusals:  # the reason; the transaction only says that it failed
                raise stream_error(KafkaException(self._refusals[0]), "publishing") from error
            raise failure from error
        self._next.update(done)

    def rewind(self) -> None:
        """Read on from the offsets that the broker has for the group."""
        ours = [TopicPartition(*place) for place in self._ours]
        known = self._patiently("asking for offsets", lambda wait_s: self._consumer.committed(ours, wait_s))
        for each in known:
            place = (each.topic, each.partition)
            offset = each.offset if each.offset >= 0 else self._next.get(place)
            if offset is not None:
                self._next[place] = offset
                self._seek(place, offset)

    def go_back(self, message: Message) -> None:
        """Seek, and hold the partition."""
        place = (message.topic, message.partition)
        self._held.add(place)
        self._consumer.pause([TopicPartition(*place)])
        self._seek(place, message.offset)

    def pause(self, wait_s: float) -> None:
        """Stay a member with all partitions held."""
        self._held.update(self._ours)
        until = time.monotonic() + wait_s
        while (left_s := until - time.monotonic()) > 0:
            self._hold()
            self._alive()
            found = self._consumer.poll(min(left_s, CALL_S))
            self._polled_s = time.monotonic()
            if found is not None and found.error() is None:  # of a partition that has just come
                early = message_of(found)
                self._held.add((early.topic, early.partition))
                self._seek((early.topic, early.partition), early.offset)

    def resume(self) -> None:
        """Read from all partitions that are still ours."""
        again = [TopicPartition(*place) for place in self._held & self._ours]
        self._held.clear()
        if again:
            self._consumer.resume(again)

    def lag(self) -> dict[Partition, int]:
        """From the ends of partitions as the last fetches told them. The broker is asked once for each partition that
        nothing was read of yet."""
        found = {}
        if fresh := [TopicPartition(*place) for place in self._ours - self._next.keys()]:
            try:
                for each in self._consumer.committed(fresh, CALL_S):
                    self._next[each.topic, each.partition] = max(0, each.offset)
            except KafkaException as error:
                logger.debug("where the group is cannot be asked: %s", error)
        for each in self._consumer.position([TopicPartition(*place) for place in self._ours]):
            low, high = self._consumer.get_watermark_offsets(each, cached=True)
            place = (each.topic, each.partition)
            at = each.offset if each.offset >= 0 else self._next.get(place, 0)
            found[place] = max(0, high - max(at, low))
        return found

    def close(self) -> None:
        """Leave the group; what is not committed is read by others."""
        self._consumer.close()

    def _publish(self, message: Outgoing) -> None:
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers) or None,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:  # the queue to the broker is full: the pace is the broker's
                self._alive()
                self._producer.poll(CALL_S)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: object) -> None:
        """A callback of the driver. One that finds an error of the driver's own pending ends in a SystemError."""
        if error is not None and error.name() not in ("_PURGE_QUEUE", "_PURGE_INFLIGHT"):
            self._refusals.append(error)

    def _abort(self) -> None:
        """Undo a transaction. What a producer cannot undo, the next one with its name does when it starts."""
        try:
            self._producer.abort_transaction(ABORT_S)
        except (KafkaException, SystemError) as error:
            logger.warning("%s; a new producer goes on", stream_error(error, "aborting"))
            old = [self._producer]
            self._producer = self._new_producer()
            # the driver's end of a producer waits for the broker, perhaps for ever
            threading.Thread(target=old.clear, name="old-producer", daemon=True).start()

    def _new_producer(self) -> Producer:
        """One that can begin; the transactions of those with its name before it have ended then."""
        made = Producer(self._producing)
        self._patiently("starting", made.init_transactions)
        return made

    def _patiently(self, doing: str, call: Callable[[float], T], within_s: float = math.inf) -> T:
        """Call until the broker answers: such calls may be made again, and go on where they were."""
        since_s, told = time.monotonic(), False
        while True:
            self._alive()
            try:
                return call(CALL_S)
            except KafkaException as error:
                passing = error.args[0].retriable() or error.args[0].name() == "_TIMED_OUT"
                if not passing or time.monotonic() - since_s > within_s:
                    raise stream_error(error, doing) from error
                if not told and time.monotonic() - since_s > TOLD_S:
                    logger.warning("Kafka does not answer while %s; it is waited for", doing)
                    told = True

    def _seek(self, place: Partition, offset: int) -> None:
        try:
            self._consumer.seek(TopicPartition(*place, offset))
        except KafkaException as error:  # not ours any more: whoever has it starts at the group's offset
            logger.debug("cannot go to %s of %s/%s: %s", offset, *place, error)

    def _subscribe(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _rejoin(self) -> None:
        """Join the group anew: a topic that came back after we had joined without it is not noticed by the driver. A
        member that there are no partitions for does so less and less often."""
        self._rejoin_s = min(2 * self._rejoin_s, MOST_REJOIN_S)
        self._rejoin_at_s = time.monotonic() + self._rejoin_s
        self._consumer.unsubscribe()
        self._subscribe()

    def _hold(self) -> None:
        if ours := self._held & self._ours:
            self._consumer.pause([TopicPartition(*place) for place in ours])

    def _assigned(self, consumer: Any, partitions: Sequence[Any]) -> None:
        places = [(each.topic, each.partition) for each in partitions]
        self._ours.update(places)
        if places:
            self._rejoin_at_s, self._rejoin_s = math.inf, REJOIN_S
        for place in places:
            self._next.pop(place, None)
        if self._held:  # we are waiting: these wait along
            self._held.update(places)
        self._on_rebalance("assigned", places)

    def _revoked(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._forget("revoked", partitions)

    def _lost(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._forget("lost", partitions)
        self._rejoin_at_s = time.monotonic() + self._rejoin_s

    def _forget(self, what: str, partitions: Sequence[Any]) -> None:
        places = [(each.topic, each.partition) for each in partitions]
        for place in places:
            self._next.pop(place, None)
            self._held.discard(place)
        self._gone.update(places)
        self._ours.difference_update(places)
        self._on_rebalance(what, places)
