"""The port to a stream of messages: read some, then publish what came of them and move on, as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes]]
Partition = tuple[str, int]  # topic and number


class Message(NamedTuple):
    """A message as it was read. ``time_us``: when it was published, by the producer's clock or the broker's."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    time_us: int = 0

    @property
    def source(self) -> str:
        """Its place in the stream.

        >>> Message("transactions", 3, 1182, None, b"{}").source
        'transactions/3/1182'
        """
        return f"{self.topic}/{self.partition}/{self.offset}"


class Outgoing(NamedTuple):
    """A message to publish; without a partition it goes where its key belongs."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Stream(Protocol):
    """Messages for one member of a group that shares the partitions of some topics. For one thread.

    Exactly once means: what is published with :meth:`commit` is seen by readers of committed messages together with
    the group's move past what was read, or neither is. Whatever fails is a ``StreamError``, of the call that failed or
    of the next one; then :meth:`rewind`, and the same messages come again.
    """

    def read(self, most: int, wait_s: float) -> Sequence[Message]:
        """The next messages, at most so many: those that are there once there is one; none after ``wait_s``."""
        ...

    def commit(self, outgoing: Sequence[Outgoing], done: Mapping[Partition, int], then: Callable[[], None]) -> None:
        """Publish these and go on from these offsets, as one, in the order of the calls; ``then`` is called when that
        is so, perhaps in another thread and after this has returned. After a failure nothing is committed until
        :meth:`rewind`. ``TooLargeError`` tells of a message that the broker does not take."""
        ...

    def rewind(self) -> None:
        """Read on from where the group is: what was read and not committed comes again."""
        ...

    def go_back(self, message: Message) -> None:
        """Read this message and those behind it in its partition again; nothing of the partition until
        :meth:`resume`."""
        ...

    def pause(self, wait_s: float) -> None:
        """Read nothing for so long, and stay a member of the group."""
        ...

    def resume(self) -> None:
        """Read from all partitions again."""
        ...

    def lag(self) -> dict[Partition, int]:
        """How many messages of each partition of ours wait to be read, by what the last fetches told."""
        ...

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        ...


# Told when partitions come or go: (``assigned`` | ``revoked`` | ``lost``, which).
OnRebalance = Callable[[str, Sequence[Partition]], None]
