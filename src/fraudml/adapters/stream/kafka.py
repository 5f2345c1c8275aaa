"""A member of a consumer group whose reading, publishing and moving on are transactions of Kafka.

The transactional id is the worker's name, so one who starts under it again ends what its predecessor had begun.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fraudml.adapters.stream.committer import Batch, Committer
from fraudml.adapters.stream.connection import MOST_BYTES, Config, message_of, stream_error
from fraudml.adapters.stream.producer import CALL_S, TransactionalProducer, patiently
from fraudml.decisions.stream import Message, OnRebalance, Outgoing, Partition
from fraudml.errors import StreamError

BUFFERED_KIB = 16_384  # of messages read ahead, for all partitions together
TRANSACTION_S = 10.0  # a transaction that takes longer is aborted by the broker
HELD_UP = "the worker was held up for longer than the session; its messages are read again"
REJOIN_S, MOST_REJOIN_S = 5.0, 300.0

logger = logging.getLogger(__name__)


class Member(NamedTuple):
    """Of a consumer group. ``name``: of this worker; ``static``: the membership outlives its process for the session's
    time."""

    group: str
    name: str
    session_ms: int
    static: bool = False


class KafkaStream:
    """See :class:`fraudml.decisions.stream.Stream`.

    ``config``: of every client (:func:`fraudml.adapters.stream.connection.connection`). ``alive`` is called, in any
    thread, while a broker that is gone is waited for; it raises to end that.
    """

    def __init__(
        self,
        config: Config,
        topics: Sequence[str],
        member: Member,
        *,
        fetch_wait_ms: int = 100,
        on_rebalance: OnRebalance = lambda what, partitions: None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._alive = alive
        self._on_rebalance = on_rebalance
        self._next: dict[Partition, int] = {}  # where each partition goes on when all that was read is committed
        self._ours: set[Partition] = set()
        self._held: set[Partition] = set()  # not to be read until resume()
        self._gone: set[Partition] = set()  # no longer ours since the last read began
        self._failed_move: KafkaError | None = None  # of a commit without a transaction
        self._moves: list[list[TopicPartition]] = []  # such commits that no answer has come for
        self._session_s = member.session_ms / 1_000
        self._producer = TransactionalProducer(
            config, f"{member.group}-{member.name}", transaction_s=TRANSACTION_S, alive=alive
        )
        self._consumer = Consumer(
            config
            | ({"group.instance.id": member.name} if member.static else {})
            | {
                "group.id": member.group,
                "session.timeout.ms": member.session_ms,
                "heartbeat.interval.ms": min(3_000, member.session_ms // 3),
                "partition.assignment.strategy": "cooperative-sticky",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "on_commit": self._moved,
                "auto.offset.reset": "earliest",  # whatever happened to the offsets: nothing is left out
                "queued.max.messages.kbytes": BUFFERED_KIB,
                "fetch.max.bytes": MOST_BYTES,
                "max.partition.fetch.bytes": 1_048_576,
                "fetch.wait.max.ms": fetch_wait_ms,
            }
        )
        self._topics = list(topics)
        self._rejoin_s = REJOIN_S
        self._rejoin_at_s = math.inf
        self._polled_s = time.monotonic()
        self._committer = Committer(self._commit)
        self._subscribe()

    def read(self, most: int, wait_s: float) -> Sequence[Message]:
        """The next messages. While the group has a new member, or a broker is gone, there are none."""
        self._committer.check()
        self._gone.clear()
        if not self._ours and time.monotonic() >= self._rejoin_at_s:
            self._rejoin()
        first = self._consumer.poll(wait_s)
        before_s, self._polled_s = self._polled_s, time.monotonic()
        found = [] if first is None else [first]
        if found and most > 1:
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
        if self._gone & self._ours:  # and back again in the same call: what was read of it may be of before
            raise StreamError("partitions went and came back; they are read from where the group is")
        if self._gone:  # in the middle: these are read by somebody else
            messages = [each for each in messages if (each.topic, each.partition) not in self._gone]
        for message in messages:
            self._next.setdefault((message.topic, message.partition), message.offset)
        if self._failed_move is not None:
            raise stream_error(KafkaException(self._failed_move), "committing offsets")
        if self._polled_s - before_s > self._session_s:  # what was read before is perhaps not ours any more
            raise StreamError(HELD_UP)
        return messages

    def commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int], then: Callable[[], None]) -> None:
        """As one transaction, perhaps together with what comes next. Nothing to publish needs none."""
        if outgoing:
            self._end_moves()
            # Asked for here: while this thread is told of a rebalance, and waits for the committer's, no other one gets
            # an answer from the consumer.
            self._committer.add(Batch(outgoing, done, then, self._consumer.consumer_group_metadata()))
            return
        self._committer.settle()
        self._committer.check()
        self._check_held_up()
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in done.items()]
        self._moves.append(offsets)
        self._consumer.commit(offsets=offsets, asynchronous=True)  # _moved is told of the outcome
        self._next.update(done)
        then()

    def rewind(self) -> None:
        """Read on from the offsets that the broker has for the group."""
        self._committer.settle()
        self._committer.reset()
        self._failed_move = None
        self._moves.clear()
        ours = [TopicPartition(*place) for place in self._ours]
        known = patiently("asking for offsets", lambda wait_s: self._consumer.committed(ours, wait_s), self._alive)
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
        if fresh := [TopicPartition(*place) for place in self._ours if place not in self._next]:
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
        """Commit what waits for it, and leave the group; what is not committed is read by others."""
        self._committer.close()
        self._consumer.close()
        self._producer.close()

    def _commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int], member: Any) -> None:
        """In the committer's thread."""
        self._check_held_up()
        self._producer.commit(outgoing, done, member)
        self._next.update(done)

    def _moved(self, error: KafkaError | None, offsets: Sequence[Any]) -> None:
        """A callback of the driver, while it polls: what came of a commit without a transaction."""
        self._failed_move = self._failed_move or error
        del self._moves[:1]

    def _end_moves(self) -> None:
        """A transaction goes by another connection, and must not overtake them: once more, then, and wait."""
        if not self._moves:
            return
        try:
            self._consumer.commit(offsets=self._moves[-1], asynchronous=False)
        except KafkaException as error:
            raise stream_error(error, "committing offsets") from error
        self._moves.clear()

    def _check_held_up(self) -> None:
        """Others may have our partitions by now. The broker refuses our commits then, but not every kind of one."""
        if time.monotonic() - self._polled_s > self._session_s:
            raise StreamError(HELD_UP)

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
        """Others have them once this returns. What is under way is published before, or, where the broker finds it too
        late for that, by them."""
        self._committer.settle()
        self._forget("revoked", partitions)

    def _lost(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Others may have them already, so what waits is not published. What is under way ends before the group has us
        as a new member."""
        self._committer.drop()
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
