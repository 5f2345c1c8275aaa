"""The worker's loop: read messages, decide, and publish the decisions together with the move past the messages.

A decision is in the log before it is published, and says which message it answers (``Decision.source``). So whatever
happens between, the message is read again and its decision found: one that answers this very message was not published
yet, because publishing moves the group past it; one that answers another message was, or will be, and is not again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from fraudml.decisions.record import Decision
from fraudml.decisions.stream import Message, Outgoing, Partition, Stream
from fraudml.errors import FencedError, FraudmlError, NotFoundError, RowError, StoreError, StreamError, TooLargeError
from fraudml.events.label import Label
from fraudml.events.strict_json import decode_object
from fraudml.events.transaction import Transaction
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.scoring.process import ScoringProcess
from fraudml.worker.dead_letters import dead_letter
from fraudml.worker.outbox import Outbox

READ_S = 0.5  # an idle worker looks up so often
FIRST_WAIT_S, MOST_WAIT_S = 0.1, 5.0  # between attempts while a dependency is gone; doubled each time
# Labels and transactions are different topics: for so long a label may be here before its transaction is.
LABEL_PATIENCE_US = 30_000_000
LABEL_WAIT_S = 0.5
LAG_EVERY_S = 1.0

logger = logging.getLogger(__name__)


class Worker:
    """One member of the group, until ``ending``. ``beat`` is called at each turn: one that does not turn is stuck."""

    def __init__(
        self,
        process: ScoringProcess,
        stream: Stream,
        outbox: Outbox,
        metrics: StreamMetrics,
        ending: threading.Event,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._process = process
        self._stream = stream
        self._outbox = outbox
        self._metrics = metrics
        self._ending = ending
        self._beat = beat
        self.working = False  # messages are handled, or none wait
        self._most = process.settings.worker_batch
        self._labels = process.settings.topic_labels
        self._wait_s = FIRST_WAIT_S
        self._labels_wait_until = 0.0
        self._lag_told_s = 0.0

    def run(self) -> None:
        """Handle messages until ``ending`` is set; raises ``FencedError`` when another process has this one's name."""
        while not self._ending.is_set():
            self.turn()

    def turn(self) -> None:
        """Read and handle once. What cannot be handled now is read again later."""
        self._beat()
        try:
            if self._labels_wait_until and time.monotonic() >= self._labels_wait_until:
                self._labels_wait_until = 0.0
                self._stream.resume()
            messages = self._stream.read(self._most, READ_S)
            if time.monotonic() >= self._lag_told_s + LAG_EVERY_S:
                self._lag_told_s = time.monotonic()
                self._metrics.lag(self._stream.lag())
            if messages:
                self._handle(messages)
        except FencedError:
            raise
        except StreamError as error:
            self._again(error, "stream")
        except StoreError as error:
            self._again(error, "store")
        else:
            self._wait_s = FIRST_WAIT_S
            self._works(True)

    def _again(self, error: StoreError, kind: str) -> None:
        """Wait a little, longer each time, and read what was not committed again."""
        if self._wait_s == FIRST_WAIT_S:
            logger.warning("the worker waits and reads the same messages again: %s", error)
        self._metrics.failed(kind)
        self._works(False)
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, MOST_WAIT_S)
        try:
            self._stream.pause(wait_s)
            self._stream.rewind()
            self._stream.resume()
        except FencedError:
            raise
        except StreamError as gone:
            logger.debug("Kafka does not answer yet: %s", gone)

    def _works(self, so: bool) -> None:
        self.working = so
        self._metrics.waiting(not so)

    def _handle(self, messages: Sequence[Message]) -> None:
        done: dict[Partition, int] = {(each.topic, each.partition): each.offset + 1 for each in messages}
        batch = Batch()
        self._decide([each for each in messages if each.topic != self._labels], batch)
        if reports := [each for each in messages if each.topic == self._labels]:
            self._record(reports, batch, done)
        try:
            self._stream.commit([*batch.outgoing, *(dead_letter(*each) for each in batch.dead)], done)
        except TooLargeError:
            if not batch.dead:
                raise
            self._stream.commit([*batch.outgoing, *(dead_letter(*each, cut=True) for each in batch.dead)], done)
        self._tell(batch)

    def _decide(self, messages: Sequence[Message], batch: Batch) -> None:
        """Decisions of transactions, in the log afterwards."""
        events: list[Transaction] = []
        good: list[Message] = []
        decode = self._process.decoder.decode
        for message in messages:
            try:
                events.append(decode(message.value or b""))
                good.append(message)
            except RowError as error:
                batch.dead.append((message, str(error)))
        if not events:
            return
        sources = [message.source for message in good]
        outcomes = self._process.scorer.try_score(events, sources)
        for message, source, outcome in zip(good, sources, outcomes, strict=True):
            if not isinstance(outcome, Decision):
                batch.dead.append((message, str(outcome)))
            elif outcome.source is not None and outcome.source != source:
                batch.count(message.topic, "repeated")
            else:
                batch.outgoing += self._outbox.messages(message, outcome)
                batch.decided.append((message, outcome))
                batch.count(message.topic, "decided")

    def _record(self, messages: Sequence[Message], batch: Batch, done: dict[Partition, int]) -> None:
        """Labels into the log. One whose transaction is not decided yet waits a while, with those behind it."""
        read: list[tuple[Message, Label | RowError]] = []
        for message in messages:
            try:
                read.append((message, self._process.fields.label(decode_object(message.value or b""))))
            except RowError as error:
                read.append((message, error))
        told = iter(self._process.scorer.add_labels([label for _, label in read if isinstance(label, Label)]))
        early: set[Partition] = set()
        for message, label in read:
            outcome = next(told) if isinstance(label, Label) else label
            place = (message.topic, message.partition)
            if place in early:  # what was recorded is read again as a repeat
                continue
            if isinstance(outcome, NotFoundError) and self._may_come(message):
                early.add(place)
                done[place] = message.offset
                self._stream.go_back(message)
                self._labels_wait_until = time.monotonic() + LABEL_WAIT_S
            elif isinstance(outcome, FraudmlError):
                batch.dead.append((message, str(outcome)))
            else:
                batch.count(message.topic, "recorded" if outcome else "unchanged")

    def _may_come(self, message: Message) -> bool:
        """Whether the transaction of a label may still be on its way: the label is young, or we are behind."""
        if time.time_ns() // 1_000 < message.time_us + LABEL_PATIENCE_US:
            return True
        return any(waiting for (topic, _), waiting in self._stream.lag().items() if topic != self._labels)

    def _tell(self, batch: Batch) -> None:
        now_us = time.time_ns() // 1_000
        for (topic, outcome), count in batch.counts.items():
            self._metrics.handled(topic, outcome, count)
        for message, error in batch.dead:
            self._metrics.handled(message.topic, "dead")
            logger.warning("message %s is in %s.dlq: %s", message.source, message.topic, error)
        if batch.decided:
            delays = [max(0.0, (now_us - message.time_us) / 1e6) for message, _ in batch.decided]
            newest = batch.decided[-1][1].transaction.event_time_us
            self._metrics.published(delays, max(0.0, (now_us - newest) / 1e6))
            self._process.metrics.batch([decision for _, decision in batch.decided], {})


class Batch:
    """What came of some messages."""

    def __init__(self) -> None:
        self.outgoing: list[Outgoing] = []
        self.decided: list[tuple[Message, Decision]] = []
        self.dead: list[tuple[Message, str]] = []
        self.counts: dict[tuple[str, str], int] = {}

    def count(self, topic: str, outcome: str) -> None:
        """One more message ended so."""
        self.counts[topic, outcome] = self.counts.get((topic, outcome), 0) + 1
