"""Reads topics as they are: some messages, one message, how far partitions go. Joins no group, changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from fraudml.adapters.stream.connection import MOST_BYTES, Config, message_of, stream_error
from fraudml.decisions.stream import Message, Partition
from fraudml.errors import StreamError

CALL_S = 0.2
_ENDED = "_PARTITION_EOF"


class TopicReader:
    """For readers of committed messages. Every method raises ``StreamError`` when nothing comes for ``timeout_s``.

    ``group``: whose offsets :meth:`committed` tells.
    """

    def __init__(self, config: Config, group: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._left: set[Partition] = set()  # partitions of the reading under way that have not ended
        self.consumer = Consumer(
            config
            | {
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",  # what is older than the topic keeps begins where it begins
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 16_384,
                "fetch.max.bytes": MOST_BYTES,
                "fetch.wait.max.ms": 100,
            }
        )

    def committed(self, places: Sequence[Partition]) -> dict[Partition, int]:
        """Where the group is; 0 where it has committed nothing."""
        if not places:
            return {}
        try:
            found = self.consumer.committed([TopicPartition(*place) for place in places], self._timeout_s)
        except KafkaException as error:
            raise stream_error(error, "asking for offsets") from error
        return {(each.topic, each.partition): max(each.offset, 0) for each in found}

    def read(self, starts: Mapping[Partition, int], ends: Mapping[Partition, int] | None = None) -> Iterator[Message]:
        """What is there from these offsets on, in order within a partition, up to (not including) ``ends``; by default
        what is there at the call: a topic that grows all the time has no end."""
        if ends is None:
            ends = {place: end for place, (first, end) in self.spans(starts).items() if first < end}
        for found in self._read({place: start for place, start in starts.items() if place in ends}):
            if isinstance(found, Message):
                place = (found.topic, found.partition)
                if found.offset < ends[place]:
                    yield found
                else:
                    self._left.discard(place)

    def spans(self, starts: Mapping[Partition, int]) -> dict[Partition, tuple[int, int]]:
        """Of each partition the offset of the first message from its start on, and of its end; equal where there is
        none. Some offsets between hold no message (ends of transactions)."""
        # not asked for: brokers compute ends in several ways, and what a reader gets to is the one that counts
        found: dict[Partition, tuple[int, int]] = {}
        for each in self._read(starts):
            if isinstance(each, End):
                found.setdefault(each.place, (each.offset, each.offset))
            elif (place := (each.topic, each.partition)) not in found:
                _, high = self.consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
                found[place] = (each.offset, high)
                self._left.discard(place)
        return found

    def oldest(self, starts: Mapping[Partition, int]) -> int | None:
        """When the oldest message from these offsets on was published, by the first of each partition; ``None`` where
        there are none."""
        found: dict[Partition, int] = {}
        for each in self._read(starts):
            if isinstance(each, Message):
                found.setdefault((each.topic, each.partition), each.time_us)
                self._left.discard((each.topic, each.partition))
        return min(found.values(), default=None)

    def at(self, place: Partition, offset: int) -> Message | None:
        """The message at an offset; ``None`` where there is none (any more)."""
        _, end = self.spans({place: 0})[place]
        if offset >= end:  # brokers differ in what they say to that
            return None
        message = next(self.read({place: offset}), None)
        return message if message is not None and message.offset == offset else None

    def close(self) -> None:
        """Let go of the connections."""
        self.consumer.close()

    def _read(self, starts: Mapping[Partition, int]) -> Iterator[Message | End]:
        """Messages and ends of partitions, while some are left."""
        self._left = set(starts)
        if not self._left:
            return
        self.consumer.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
        try:
            heard_s = time.monotonic()
            while self._left:
                found = self.consumer.poll(CALL_S)
                if found is None:
                    if time.monotonic() > heard_s + self._timeout_s:
                        raise StreamError(f"Kafka sent nothing for {self._timeout_s:g} s; see whether its brokers run")
                    continue
                error = found.error()
                place = (str(found.topic()), int(found.partition() or 0))
                if error is None:
                    if place in self._left:
                        yield message_of(found)
                elif error.name() == _ENDED:
                    self._left.discard(place)
                    yield End(place, int(found.offset() or 0))
                elif error.retriable() and not error.fatal():
                    continue
                else:
                    raise stream_error(KafkaException(error), "reading")
                heard_s = time.monotonic()  # after what the caller did with it
        finally:
            self.consumer.unassign()


class End(NamedTuple):
    """Nothing more is there in a partition."""

    place: Partition
    offset: int
