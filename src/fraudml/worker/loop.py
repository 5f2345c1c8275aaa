"""The loop of a worker: read messages, handle them, and publish what came of them together with the move past them.

The next messages are handled while that is published. What cannot be handled now, because a dependency is gone, is read
again: nothing is kept here that the stream has not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from fraudml.decisions.record import Decision
from fraudml.decisions.stream import Message, Outgoing, Partition, Stream
from fraudml.errors import FencedError, StoreError, StreamError, TooLargeError
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.worker.dead_letters import dead_letter

READ_S = 0.5  # an idle loop looks up so often
FIRST_WAIT_S, MOST_WAIT_S = 0.1, 5.0  # between attempts while a dependency is gone; doubled each time
LAG_EVERY_S = 1.0

logger = logging.getLogger(__name__)


class Handled:
    """What came of some messages."""

    def __init__(self) -> None:
        self.outgoing: list[Outgoing] = []
        self.decided: list[tuple[Message, Decision]] = []
        self.dead: list[tuple[Message, str]] = []
        self.early: dict[Partition, Message] = {}  # the first of each partition that has to be read again later
        self.counts: dict[str, int] = {}

    def count(self, outcome: str) -> None:
        """One more message ended so."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1


# Handles messages; what it raises has them all read again.
Handle = Callable[[Sequence[Message]], Handled]
# Told of what is published now, perhaps in a thread of the stream's.
OnPublished = Callable[[Handled], None]


class Loop:
    """One member of a group that reads a topic, until ``ending``. ``beat`` is called at each turn: one that does not
    turn is stuck."""

    def __init__(
        self,
        topic: str,
        stream: Stream,
        handle: Handle,
        metrics: StreamMetrics,
        ending: threading.Event,
        *,
        most: int,
        beat: Callable[[], None] = lambda: None,
        on_published: OnPublished = lambda handled: None,
    ) -> None:
        self._topic = topic
        self._stream = stream
        self._handle = handle
        self._metrics = metrics
        self._ending = ending
        self._most = most
        self._beat = beat
        self._on_published = on_published
        self._wait_s = FIRST_WAIT_S
        self._astray = False  # what was read last is not committed, and has to be read again first
        self._cut = False  # dead letters, which were too large for the broker
        self._again_until_s = 0.0
        self._resume_at_s = 0.0
        self._lag_at_s = 0.0
        self.lag: Mapping[Partition, int] = {}
        self.working = False  # messages are handled, or none wait

    def run(self) -> None:
        """Handle messages until ``ending`` is set; raises ``FencedError`` when another process has this one's name."""
        while not self._ending.is_set():
            self.turn()

    def turn(self) -> None:
        """Read and handle once."""
        self._beat()
        try:
            if self._astray:
                self._stream.rewind()
                self._stream.resume()
                self._astray = False
            if self._resume_at_s and time.monotonic() >= self._resume_at_s:
                self._resume_at_s = 0.0
                self._stream.resume()
            messages = self._stream.read(self._most, READ_S)
            self._look_at_lag()
            if messages:
                self._publish(messages, self._handle(messages))
        except FencedError:
            raise
        except StoreError as error:
            self._cut = self._cut or isinstance(error, TooLargeError)
            self._again(error)
        else:
            # what is tried again may take a moment to come; nothing comes when others have taken over
            if not messages and time.monotonic() >= self._again_until_s:
                self._recovered()

    def _publish(self, messages: Sequence[Message], handled: Handled) -> None:
        done: dict[Partition, int] = {(each.topic, each.partition): each.offset + 1 for each in messages}
        for place, message in handled.early.items():
            done[place] = message.offset
        letters = [dead_letter(message, error, cut=self._cut) for message, error in handled.dead]
        self._stream.commit([*handled.outgoing, *letters], done, lambda: self._published(handled))
        for message in handled.early.values():
            self._stream.go_back(message)
            self._resume_at_s = time.monotonic() + READ_S

    def _published(self, handled: Handled) -> None:
        self._cut = False
        if not self._astray:
            self._recovered()
        for outcome, count in handled.counts.items():
            self._metrics.handled(self._topic, outcome, count)
        for message, error in handled.dead:
            self._metrics.handled(self._topic, "dead")
            logger.warning("message %s is in %s.dlq: %s", message.source, self._topic, error)
        self._on_published(handled)

    def _again(self, error: StoreError) -> None:
        """Wait a little, longer each time, before what was not committed is read again."""
        if self._wait_s == FIRST_WAIT_S:
            logger.warning("the worker waits and reads the same messages again: %s", error)
        self._metrics.failed("stream" if isinstance(error, StreamError) else "store")
        self._works(False)
        self._astray = True
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, MOST_WAIT_S)
        try:
            self._stream.pause(wait_s)
        except FencedError:
            raise
        except StreamError as gone:
            logger.debug("Kafka does not answer yet: %s", gone)
        self._again_until_s = time.monotonic() + MOST_WAIT_S

    def _recovered(self) -> None:
        self._wait_s = FIRST_WAIT_S
        self._works(True)

    def _works(self, so: bool) -> None:
        self.working = so
        self._metrics.waiting(self._topic, not so)

    def _look_at_lag(self) -> None:
        if time.monotonic() >= self._lag_at_s:
            self._lag_at_s = time.monotonic() + LAG_EVERY_S
            self.lag = self._stream.lag()
            self._metrics.lag(self._topic, self.lag)
