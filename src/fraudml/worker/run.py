"""Puts a worker together and runs it to its end.

Transactions and labels are read by two members of two groups (:func:`fraudml.wiring.workers_groups`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

from fraudml import wiring
from fraudml.decisions.codec import JsonCodec
from fraudml.decisions.stream import OnRebalance, Partition, Stream
from fraudml.errors import StreamError
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.scoring.process import ScoringProcess
from fraudml.scoring.status import Facts, Heart, StatusServer
from fraudml.worker.labels import Labels, WaitsSince
from fraudml.worker.loop import Loop
from fraudml.worker.outbox import Outbox
from fraudml.worker.transactions import Transactions

LOOK_S = 1.0
STOP_S = 20.0  # Kubernetes gives 30
STUCK = 75  # exit code: a temporary failure, try again (sysexits.h)
SWITCH_S = 0.0005  # who publishes has little to do between two answers, and decisions keep Python busy meanwhile
LABELS_AT_ONCE = 250  # transactions do not wait for more of them

logger = logging.getLogger(__name__)

# Opens a stream of one topic: the topic, what to call meanwhile.
Open = Callable[[str, OnRebalance, Callable[[], None]], Stream]


class Worker:
    """The two loops of a worker over a scoring process, in two threads; ``error`` is what ended one of them."""

    def __init__(self, process: ScoringProcess, open_stream: Open, waits_since: WaitsSince) -> None:
        settings = process.settings
        self._process = process
        self._open = open_stream
        self._waits_since = waits_since
        self.ending = threading.Event()
        self.error: BaseException | None = None
        self.metrics = StreamMetrics(process.metrics.collector)
        self.hearts = {settings.topic_transactions: Heart(), settings.topic_labels: Heart()}
        for topic in self.hearts:
            self.metrics.handled(topic, "dead", 0)  # an increase is seen of what began at 0
        self._loops: dict[str, Loop] = {}
        self._threads = [
            threading.Thread(target=self._run, args=[topic], name=f"worker-{topic}", daemon=True)
            for topic in self.hearts
        ]

    def start(self) -> None:
        """Join the groups and handle messages, until ``ending`` is set."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end of the batches under way; raises what ended a loop, ``StreamError`` when one hangs."""
        until_s = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            raise StreamError("a call of the Kafka client hangs; what was under way is read again by another worker")
        if self.error is not None:
            raise self.error

    @property
    def stuck(self) -> bool:
        """Whether a loop hangs. Nothing in one waits for so long without a sign of life."""
        return any(heart.still_s > self._process.settings.worker_stuck_s for heart in self.hearts.values())

    @property
    def ready(self) -> bool:
        """Whether messages are handled now."""
        return len(self._loops) == len(self._threads) and all(loop.working for loop in self._loops.values())

    def _run(self, topic: str) -> None:
        try:
            with ExitStack() as stack:
                stream = self._open(topic, self._rebalanced, lambda: self._alive(topic))
                stack.callback(stream.close)
                self._loops[topic] = self._loop(topic, stream)
                self._loops[topic].run()
        except BaseException as error:  # raised where the worker is waited for
            if not (self.ending.is_set() and isinstance(error, StreamError)):
                self.error = self.error or error
        finally:
            self.ending.set()

    def _loop(self, topic: str, stream: Stream) -> Loop:
        process, settings, beat = self._process, self._process.settings, self.hearts[topic].beat
        codec = JsonCodec(process.schema, process.hasher, max_ahead_s=settings.max_ahead_s)
        if topic == settings.topic_labels:
            labels = Labels(process.scorer, codec, process.metrics, self._waits_since)
            return Loop(topic, stream, labels, self.metrics, self.ending, most=LABELS_AT_ONCE, beat=beat)
        outbox = Outbox(process.schema, codec, settings.topic_decisions, settings.topic_alerts)
        decide = Transactions(process, codec, outbox, self.metrics)
        most = settings.worker_batch
        return Loop(
            topic, stream, decide, self.metrics, self.ending, most=most, beat=beat, on_published=decide.published
        )

    def _rebalanced(self, what: str, places: Sequence[Partition]) -> None:
        self.metrics.rebalanced(what, len(places))

    def _alive(self, topic: str) -> None:
        """A broker is waited for."""
        self.hearts[topic].beat()
        if self.ending.is_set():
            raise StreamError("the worker ends while it waits for Kafka; its batch is read again by another one")


def run(process: ScoringProcess, tell: Callable[[str], None]) -> None:
    """Decide on what comes until SIGTERM or Ctrl-C; then finish the batch under way and leave the groups.

    ``tell`` gets the address of health and metrics. Closes ``process``.
    """
    settings = process.settings
    sys.setswitchinterval(SWITCH_S)

    def open_stream(topic: str, on_rebalance: OnRebalance, alive: Callable[[], None]) -> Stream:
        return wiring.stream(settings, topic, on_rebalance, alive)

    worker = Worker(process, open_stream, lambda: wiring.waits_since(settings))

    def stop(number: int, frame: FrameType | None) -> None:
        worker.ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with ExitStack() as stack:
        stack.callback(process.close)
        facts = Facts(lambda: worker.stuck, lambda: worker.ready, process.metrics.text)
        status = StatusServer(settings.host, settings.worker_port, facts, "FRAUDML_WORKER_PORT")
        stack.callback(status.close)
        process.start()
        worker.start()
        tell(status.address)
        while not worker.ending.wait(LOOK_S):
            if worker.stuck:
                logger.critical("a call of the Kafka client hangs; the worker ends at once, to be started again")
                os._exit(STUCK)  # what hangs cannot be waited for, and kill -9 loses nothing either
        worker.join()
